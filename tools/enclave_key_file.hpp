// The master key: 32 random bytes in a file that only its owner can read.
//
// A real enclave has no key file. It derives its key inside (EGETKEY, bound to the enclave's
// identity) or receives it over an attested channel; what follows, a key of its own for each sealed
// file, is the same.
#pragma once

#include <string>

#include "tools/enclave_block_cipher.hpp"
#include "tools/file_place.hpp"

namespace exclave::tools {

// $XDG_CONFIG_HOME/exclave/key, else ~/.config/exclave/key. Throws Failure(kKey) when there is no
// home either.
std::string default_key_file();

// 32 raw bytes, or 64 hex digits and perhaps a line end. Throws Failure(kKey): missing, unreadable,
// no regular file, wrong length, bad digits, or open to anyone but its owner. *file: which one it
// is.
Key load_key(const std::string& path, FileId* file);

// Makes a new key, mode 0600, and its folder if that is missing, and brings both to disk: what is
// sealed with the key must not outlive it. Throws Failure(kKey); an existing file is an error and
// stays as it is.
void create_key(const std::string& path);

}  // namespace exclave::tools
