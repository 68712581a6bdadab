# Every folder under tests/ that holds *_test.cpp is one GoogleTest program; then the checks on the tree itself.

find_package(GTest REQUIRED)
include(GoogleTest)
find_program(BASH bash REQUIRED)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(scripts ${PROJECT_SOURCE_DIR}/scripts)

# --- the core, freestanding ---------------------------------------------------------------------------------------------
add_test(NAME check.freestanding
  COMMAND ${scripts}/check_freestanding.sh $<TARGET_OBJECTS:exclave_core_freestanding>
  COMMAND_EXPAND_LISTS)
add_test(NAME check.freestanding_self_test
  COMMAND ${scripts}/check_freestanding.sh --self-test ${CMAKE_CXX_COMPILER})
if(NOT EXCLAVE_PORT STREQUAL "process")
  return()
endif()

# --- the tree: its text is the same in every preset, but a check is cheap -------------------------------------------------
add_test(NAME check.includes COMMAND Python3::Interpreter ${scripts}/check_includes.py ${PROJECT_SOURCE_DIR})
add_test(NAME check.includes_self_test COMMAND Python3::Interpreter ${scripts}/check_includes.py --self-test)
add_test(NAME check.threats_self_test COMMAND Python3::Interpreter ${scripts}/check_threats.py --self-test)
add_test(NAME check.mutants_self_test COMMAND Python3::Interpreter ${scripts}/mutants/mutants.py --self-test)
add_test(NAME check.mutants_list COMMAND Python3::Interpreter ${scripts}/mutants/mutants.py --check-list)
add_test(NAME check.changed_self_test COMMAND Python3::Interpreter ${scripts}/changed.py --self-test)
add_test(NAME check.coverage_self_test COMMAND Python3::Interpreter ${scripts}/coverage.py --self-test)
add_test(NAME check.bench_self_test COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/bench/self_test.py)
add_test(NAME check.format COMMAND ${scripts}/check_format.sh)

# --- unit tests ----------------------------------------------------------------------------------------------------------
file(GLOB support_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/support/*.cpp)
if(support_sources)
  add_library(exclave_test_support STATIC ${support_sources})
  exclave_test_options(exclave_test_support)
  set(link_as PUBLIC)
else()
  add_library(exclave_test_support INTERFACE)
  set(link_as INTERFACE)
endif()
target_link_libraries(exclave_test_support ${link_as} exclave_sim GTest::gmock GTest::gtest)
# Read once for all tests: half the time of compiling one was spent in these. Tests include what they use all the same, and the
# release build, which does without, says so when one does not.
if(support_sources AND NOT CMAKE_BUILD_TYPE STREQUAL "Release")
  set(precompile_tests TRUE)
  target_precompile_headers(exclave_test_support PRIVATE
    <gtest/gtest.h> <algorithm> <array> <atomic> <cstring> <functional> <map> <random> <string> <thread> <vector>)
endif()

file(GLOB test_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/*/*_test.cpp)
set(rooms)
foreach(source ${test_sources})
  cmake_path(GET source PARENT_PATH folder)
  cmake_path(GET folder FILENAME room)
  list(APPEND rooms ${room})
  list(APPEND sources_of_${room} ${source})
endforeach()
list(REMOVE_DUPLICATES rooms)
if(NOT TARGET exclave_malloc)
  list(REMOVE_ITEM rooms malloc)
endif()
if(NOT TARGET exclave_cli)
  list(REMOVE_ITEM rooms tools)
endif()
# Programs run uninstrumented there: nothing to see for a sanitizer, nothing to count.
if(NOT TARGET exclave_loader OR NOT TARGET exclave_cli OR EXCLAVE_SANITIZE OR EXCLAVE_COVERAGE)
  list(REMOVE_ITEM rooms exec)
endif()
set(timeout_s 120)
if(EXCLAVE_SANITIZE OR EXCLAVE_COVERAGE)
  set(timeout_s 600)
endif()
foreach(room ${rooms})
  set(test ${room}_test)
  add_executable(${test} ${sources_of_${room}})
  target_link_libraries(${test} PRIVATE exclave_test_support GTest::gtest_main)
  if(room STREQUAL "access")  # reads its object code
    add_dependencies(${test} exclave_core_freestanding)
  endif()
  # Only for rooms that read files of the tree: a flag with a folder in it is compiled anew in every clone.
  if(room MATCHES "^(access|capi|exec|tools)$")
    target_compile_definitions(${test} PRIVATE
      EXCLAVE_SOURCE_DIR="${PROJECT_SOURCE_DIR}" EXCLAVE_BUILD_DIR="${PROJECT_BINARY_DIR}")
  endif()
  set_target_properties(${test} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  exclave_test_options(${test})
  # GoogleTest's macros end in an else of their own, which g++ takes for ours.
  target_compile_options(${test} PRIVATE -Wno-dangling-else)
  if(precompile_tests AND NOT room STREQUAL "malloc")  # which has flags of its own
    target_precompile_headers(${test} REUSE_FROM exclave_test_support)
  endif()
  # These start the command line as well as link its parts.
  if(room MATCHES "^(exec|tools)$")
    target_link_libraries(${test} PRIVATE exclave_tools)
    add_dependencies(${test} exclave_cli)
  endif()
  # Rooms with long tests come first, so that no processor is idle at the end.
  set(cost 1)
  if(room MATCHES "^(access|exec|faults|ports)$")
    set(cost 10)
  endif()
  gtest_discover_tests(${test} DISCOVERY_MODE PRE_TEST TEST_PREFIX ${room}.
    DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT ${timeout_s} LABELS ${room} COST ${cost})
endforeach()

if(TARGET exclave_cli)
  # Debian's own Python, for which it has the package.
  add_test(NAME tools.another_hand
    COMMAND /usr/bin/python3 ${PROJECT_SOURCE_DIR}/tests/tools/another_hand.py --test $<TARGET_FILE:exclave_cli>)
  set_tests_properties(tools.another_hand PROPERTIES LABELS tools TIMEOUT ${timeout_s})
endif()

if(TARGET exclave_malloc)
  # The whole program lives on it; no call of malloc may be optimised away; clang 14 has to be asked for sized delete.
  target_link_libraries(malloc_test PRIVATE exclave_malloc)
  target_compile_options(malloc_test PRIVATE -fno-builtin -fsized-deallocation)
  add_test(NAME malloc.real_programs
    COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/tests/malloc/real_programs.py $<TARGET_FILE:exclave_malloc>)
  set_tests_properties(malloc.real_programs PROPERTIES LABELS malloc TIMEOUT 300 COST 30)
  add_test(NAME malloc.limits
    COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/tests/malloc/limits.py $<TARGET_FILE:exclave_malloc>)
  # Programs and libraries that are preloaded with it.
  add_executable(malloc_own_operators ${PROJECT_SOURCE_DIR}/tests/malloc/own_operators.cpp)
  target_compile_options(malloc_own_operators PRIVATE -fno-builtin -fsized-deallocation)
  exclave_options(malloc_own_operators)
  add_library(malloc_many_keys MODULE ${PROJECT_SOURCE_DIR}/tests/malloc/many_keys.c)
  exclave_options(malloc_many_keys)
  target_link_options(malloc_many_keys PRIVATE -Wl,-z,initfirst)
  add_dependencies(malloc_test malloc_own_operators malloc_many_keys)
  add_test(NAME malloc.own_operators
    COMMAND ${CMAKE_COMMAND} -E env LD_PRELOAD=$<TARGET_FILE:exclave_malloc> $<TARGET_FILE:malloc_own_operators>)
  add_test(NAME malloc.many_keys
    COMMAND ${CMAKE_COMMAND} -E env LD_PRELOAD=$<TARGET_FILE:exclave_malloc>:$<TARGET_FILE:malloc_many_keys>
      ${Python3_EXECUTABLE} -c "import threading as t; x = t.Thread(target=dict); x.start(); x.join()")
  add_test(NAME malloc.loaded_late
    COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/tests/malloc/loaded_late.py $<TARGET_FILE:exclave_malloc>)
  set_tests_properties(malloc.limits malloc.own_operators malloc.many_keys malloc.loaded_late
    PROPERTIES LABELS malloc TIMEOUT 300 COST 30)
endif()

include(cmake/ExecTests.cmake)

foreach(name ${example_programs})
  add_test(NAME example.${name} COMMAND example_${name})
endforeach()

# --- what must not compile: each file compiles as it is, and not with -DEXCLAVE_MUST_FAIL ----------------------------------
file(GLOB compile_fail_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/compile_fail/*.cpp)
set(compile ${CMAKE_CXX_COMPILER} -std=c++20 -fsyntax-only -Wall -Wextra -Wconversion -Wshadow -Werror
  -I${PROJECT_SOURCE_DIR}/include -I${PROJECT_SOURCE_DIR}/src -I${PROJECT_SOURCE_DIR}/ports
  -DEXCLAVE_THREAD_SLOT_HEADER="process/thread_slot.hpp")
foreach(source ${compile_fail_sources})
  cmake_path(GET source STEM name)
  add_test(NAME compile_ok.${name} COMMAND ${scripts}/compile_test.sh ok ${source} ${compile})
  add_test(NAME compile_fail.${name} COMMAND ${scripts}/compile_test.sh fail ${source} ${compile})
  set_tests_properties(compile_ok.${name} compile_fail.${name} PROPERTIES LABELS compile_fail)
endforeach()

# --- an installed exclave, used from outside the tree. Consumers do not build with our instrumentation. --------------------
if(NOT EXCLAVE_SANITIZE AND NOT EXCLAVE_COVERAGE)
  file(GLOB consumers CONFIGURE_DEPENDS LIST_DIRECTORIES true ${PROJECT_SOURCE_DIR}/tests/consumer/*)
  foreach(consumer ${consumers})
    cmake_path(GET consumer FILENAME name)
    add_test(NAME install.${name} COMMAND ${scripts}/install_test.sh ${PROJECT_BINARY_DIR} ${consumer})
    # One at a time: an installation writes its manifest into the build folder.
    set_tests_properties(install.${name} PROPERTIES LABELS install RESOURCE_LOCK install
      ENVIRONMENT "CC=${CMAKE_C_COMPILER};CXX=${CMAKE_CXX_COMPILER}")
  endforeach()
endif()
