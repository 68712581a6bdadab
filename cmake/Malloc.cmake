# libexclave_malloc.so: malloc for a whole process, by LD_PRELOAD. Compiled from the library's sources, not linked with
# its objects, because it is optimised as one piece.
#
# Not under a sanitizer, which has a malloc of its own, and not for coverage, whose run-time library allocates.
if(NOT EXCLAVE_BUILD_MALLOC OR EXCLAVE_SANITIZE OR EXCLAVE_COVERAGE)
  return()
endif()

file(GLOB malloc_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/malloc/*.cpp)
set(malloc_port_sources ${port_sources})
list(FILTER malloc_port_sources EXCLUDE REGEX "/(c_api|enclave_memory)\\.cpp$")
set(malloc_core_sources ${core_sources})
list(FILTER malloc_core_sources EXCLUDE REGEX "/src/(memcall|capi)/")

add_library(exclave_malloc SHARED ${malloc_sources} ${malloc_port_sources} ${malloc_core_sources})
target_include_directories(exclave_malloc PRIVATE include src ports malloc)
target_compile_definitions(exclave_malloc PRIVATE EXCLAVE_THREAD_SLOT_HEADER="process/thread_slot.hpp")
exclave_library_options(exclave_malloc)
target_compile_options(exclave_malloc PRIVATE
  -fno-semantic-interposition -ftls-model=initial-exec
  -fno-builtin-malloc -fno-builtin-calloc -fno-builtin-realloc -fno-builtin-free
  $<$<CXX_COMPILER_ID:GNU>:-Wno-sized-deallocation>)  # the two halves of delete are compiled apart
# The new handler may throw, and whoever asked for null instead must not see it. Its weak references are the
# assembler's, which link-time optimisation does not know.
set_source_files_properties(${PROJECT_SOURCE_DIR}/malloc/new_handler.cpp PROPERTIES
  COMPILE_OPTIONS "-fexceptions;-fno-lto")
# Its calls of the other operators are to reach those of a program that brings its own.
set_source_files_properties(${PROJECT_SOURCE_DIR}/malloc/derived_operators.cpp PROPERTIES
  COMPILE_OPTIONS "-fsemantic-interposition;-fno-lto")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_BUILD_TYPE STREQUAL "Release")
  # From malloc into the thread's heap is to be one function, though it lies in two source files.
  target_compile_options(exclave_malloc PRIVATE -flto=auto)
  target_link_options(exclave_malloc PRIVATE -flto=auto)
endif()
# nodelete: threads that end call into it, whoever has closed it by then.
# No C++ run-time library, as with libexclave.so: the C compiler's driver links it.
set_target_properties(exclave_malloc PROPERTIES LINKER_LANGUAGE C)
target_link_options(exclave_malloc PRIVATE -Wl,--as-needed -Wl,-z,relro,-z,now -Wl,-z,defs
  -Wl,-z,initfirst -Wl,-z,nodelete -Wl,--version-script=${PROJECT_SOURCE_DIR}/malloc/exports.map)
set_property(TARGET exclave_malloc APPEND PROPERTY LINK_DEPENDS ${PROJECT_SOURCE_DIR}/malloc/exports.map)
install(TARGETS exclave_malloc LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/exclave)
