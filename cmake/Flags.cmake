# Compiler flags, one function for each kind of code.

# Warnings and instrumentation: every target of ours.
function(exclave_options target)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow
    $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>
    $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>
    $<$<BOOL:${EXCLAVE_WERROR}>:-Werror>)
  if(EXCLAVE_SANITIZE)
    # vptr and function need RTTI, which the core does not have.
    set(sanitize -fsanitize=${EXCLAVE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    if(EXCLAVE_SANITIZE MATCHES "undefined")
      list(APPEND sanitize -fno-sanitize=vptr)
      if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
        list(APPEND sanitize -fno-sanitize=function)
      endif()
    endif()
    if(EXCLAVE_SANITIZE MATCHES "fuzzer")
      # Inputs are operations, not magic numbers; to trace each comparison made the walks over the books ten times slower.
      list(APPEND sanitize -fno-sanitize-coverage=trace-cmp)
    endif()
    target_compile_options(${target} PRIVATE ${sanitize})
    target_link_options(${target} PRIVATE ${sanitize})
  endif()
  if(EXCLAVE_COVERAGE)
    # Without inlining, not even of what always is, so that each branch is counted once, where it is written; and nothing
    # but src/, for counting is slow.
    string(REGEX REPLACE "[^A-Za-z0-9/_-]" "." counted ${PROJECT_SOURCE_DIR}/src/)
    target_compile_options(${target} PRIVATE --coverage -fprofile-update=atomic -fprofile-filter-files=^${counted} -O0 -g0)
    target_compile_definitions(${target} PRIVATE EXCLAVE_COVERAGE always_inline=unused)
    target_link_options(${target} PRIVATE --coverage)
  endif()
endfunction()

# A program of tests, and what tests share. In release builds the library is what is optimised, and of the tests only those of
# the accessors, which are inline.
function(exclave_test_options target)
  exclave_options(${target})
  target_compile_options(${target} PRIVATE
    $<$<CONFIG:Debug>:-g${EXCLAVE_TEST_DEBUG_LEVEL}>
    $<$<AND:$<CONFIG:Release>,$<NOT:$<STREQUAL:${target},access_test>>>:-O1>)
endfunction()

# What goes into libexclave: no C++ run-time library, so that C programs can link it with a C compiler.
function(exclave_library_options target)
  exclave_options(${target})
  target_compile_options(${target} PRIVATE
    -fno-exceptions -fno-rtti -fno-threadsafe-statics
    $<$<CONFIG:Release>:-fno-plt>)
  exclave_library_properties(${target})
endfunction()

# Only what EXCLAVE_API marks is seen from outside libexclave.so.
function(exclave_library_properties target)
  set_target_properties(${target} PROPERTIES
    POSITION_INDEPENDENT_CODE ON
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
endfunction()

# The core: no libc either (beyond the mem* that a compiler may call on its own).
function(exclave_core_options target)
  exclave_library_options(${target})
  target_compile_options(${target} PRIVATE -ffreestanding)
endfunction()

# The core as an enclave gets it, whatever else the preset switches on: no sanitizer, no coverage, nothing that
# a distribution's compiler adds and that would need a run-time library.
set(EXCLAVE_FREESTANDING_LEVEL -O2 CACHE STRING "How the core is optimised for an enclave")
function(exclave_core_freestanding_options target)
  target_compile_options(${target} PRIVATE
    ${EXCLAVE_FREESTANDING_LEVEL} -Wall -Wextra $<$<BOOL:${EXCLAVE_WERROR}>:-Werror>
    -ffreestanding -fno-exceptions -fno-rtti -fno-threadsafe-statics
    -fno-stack-protector -U_FORTIFY_SOURCE)
  exclave_library_properties(${target})
endfunction()
