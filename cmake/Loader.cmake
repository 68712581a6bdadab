# The loader of `exclave exec`: one static program at a fixed address of its own, without libc, linked with the core as
# an enclave gets it. The programs that it runs are uninstrumented, and so is it, whatever the preset says.
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  return()
endif()

file(GLOB loader_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/loader/*.cpp)
add_executable(exclave_loader ${loader_sources} $<TARGET_OBJECTS:exclave_core_freestanding>)
target_include_directories(exclave_loader PRIVATE include src ports ${PROJECT_SOURCE_DIR})
target_compile_definitions(exclave_loader PRIVATE EXCLAVE_THREAD_SLOT_HEADER="freestanding/thread_slot.hpp")
exclave_core_freestanding_options(exclave_loader)
target_compile_options(exclave_loader PRIVATE
  -Wpedantic -Wconversion -Wshadow -Wno-gnu-case-range
  # Nothing may turn our memcpy into a call of itself; no thread-local storage is there for anything.
  -fno-builtin -fno-asynchronous-unwind-tables -fcf-protection=none
  $<$<CXX_COMPILER_ID:GNU>:-fno-tree-loop-distribute-patterns>)
target_link_options(exclave_loader PRIVATE
  -nostdlib -nostartfiles -static $<$<CXX_COMPILER_ID:GNU>:-no-pie>
  # loader/layout.hpp: kImageBase. Its own pages, so that the rest of the page is not executable.
  -Wl,-Ttext-segment=0x700000000000 -Wl,-z,noexecstack -Wl,-z,max-page-size=4096 -Wl,--build-id=none
  # Addresses above 2 GiB do not fit where the linker would like to put them.
  -Wl,--no-relax -Wl,--fatal-warnings)
set_target_properties(exclave_loader PROPERTIES OUTPUT_NAME exclave-loader)
include(GNUInstallDirs)
install(TARGETS exclave_loader RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/exclave)
