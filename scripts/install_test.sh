#!/bin/bash
# Installs a build into a fresh prefix, then builds and runs a program from outside the tree against it.
#   install_test.sh BUILD_DIR CONSUMER_DIR      CC and CXX name the compilers
# A consumer with a CMakeLists.txt uses find_package, statically and shared; one without uses pkg-config.
set -euo pipefail

build=$1 consumer=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
cc=${CC:-cc}

cmake --install "$build" --prefix "$prefix" >/dev/null
# Away from the tree: nothing may be found by a relative path.
cp -r "$consumer" "$work/consumer"
cd "$work"

if [[ -e consumer/CMakeLists.txt ]]; then
  for shared in OFF ON; do
    cmake -G Ninja -S consumer -B "build-$shared" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$prefix" \
      -DBUILD_SHARED_LIBS=$shared
    cmake --build "build-$shared"
    "build-$shared/consumer"
  done
else
  pc=$(find "$prefix" -name exclave.pc)
  PKG_CONFIG_PATH=$(dirname "$pc")
  export PKG_CONFIG_PATH
  read -ra flags <<<"$(pkg-config --cflags --libs exclave)"
  libdir=$(pkg-config --variable=libdir exclave)
  warnings=(-std=c11 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
  "$cc" "${warnings[@]}" consumer/*.c "${flags[@]}" -o with_shared
  LD_LIBRARY_PATH=$libdir ./with_shared
  # The static library needs no C++ run-time library, and this shows it.
  "$cc" "${warnings[@]}" consumer/*.c "${flags[@]/-lexclave/-l:libexclave.a}" -o with_static
  ./with_static
fi
