// Build-wide facts of the public face.
#pragma once

#define EXCLAVE_API __attribute__((visibility("default")))

#define EXCLAVE_VERSION_MAJOR 0
#define EXCLAVE_VERSION_MINOR 1
#define EXCLAVE_VERSION_PATCH 0
