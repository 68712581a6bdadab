# Programs that tests/exec runs natively and under `exclave exec`. static_*.c are linked statically, high_*.c to a high
# address, bare_*.c without libc. They are ordinary programs: no flags of ours but warnings.
if(NOT TARGET exclave_loader OR NOT TARGET exclave_cli OR EXCLAVE_SANITIZE OR EXCLAVE_COVERAGE)
  return()
endif()

file(GLOB exec_programs CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/exec/programs/*.c)
set(exec_program_targets)
foreach(source ${exec_programs})
  cmake_path(GET source STEM name)
  add_executable(exec_program_${name} ${source})
  set_target_properties(exec_program_${name} PROPERTIES
    OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/exec
    C_STANDARD 11 C_EXTENSIONS ON)
  target_compile_options(exec_program_${name} PRIVATE -Wall -Wextra $<$<BOOL:${EXCLAVE_WERROR}>:-Werror>)
  target_link_options(exec_program_${name} PRIVATE -pthread)
  if(name MATCHES "^bare_")
    target_compile_options(exec_program_${name} PRIVATE -ffreestanding -fno-stack-protector -fno-pie)
    target_link_options(exec_program_${name} PRIVATE -static -nostdlib -no-pie)
  elseif(name MATCHES "^static_")
    target_link_options(exec_program_${name} PRIVATE -static)
  elseif(name MATCHES "^high_")
    target_compile_options(exec_program_${name} PRIVATE -fPIE)
    target_link_options(exec_program_${name} PRIVATE -pie LINKER:-Ttext-segment=0x555500000000)
  endif()
  list(APPEND exec_program_targets exec_program_${name})
endforeach()
add_dependencies(exec_test ${exec_program_targets})
# The parts of the loader that run anywhere.
target_sources(exec_test PRIVATE
  ${PROJECT_SOURCE_DIR}/loader/options.cpp
  ${PROJECT_SOURCE_DIR}/loader/policy.cpp)
