# The proofs of the core's arithmetic, by Z3 (libz3-dev). docs/proofs.md says what is proven.
find_library(Z3_LIBRARY z3 REQUIRED)
find_path(Z3_INCLUDE_DIR z3++.h REQUIRED)
find_package(Python3 REQUIRED COMPONENTS Interpreter)

file(GLOB proof_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/proofs/*.cpp)
add_executable(exclave_prove ${proof_sources})
target_include_directories(exclave_prove SYSTEM PRIVATE ${Z3_INCLUDE_DIR})
target_link_libraries(exclave_prove PRIVATE exclave_internal ${Z3_LIBRARY})
exclave_options(exclave_prove)

add_test(NAME proofs.theorems COMMAND exclave_prove)
add_test(NAME proofs.plants
  COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/proofs/check_plants.py $<TARGET_FILE:exclave_prove>)
set_tests_properties(proofs.theorems proofs.plants PROPERTIES LABELS proofs TIMEOUT 600)
