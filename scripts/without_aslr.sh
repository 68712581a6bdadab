#!/bin/bash
# Runs a command without address space randomisation where the kernel lets us: ThreadSanitizer of clang 14 cannot
# place its shadow where vm.mmap_rnd_bits is large. Elsewhere runs it as it is.
if setarch "$(uname -m)" --addr-no-randomize true 2>/dev/null; then
  exec setarch "$(uname -m)" --addr-no-randomize "$@"
fi
exec "$@"
