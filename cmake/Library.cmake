# The library: the core, and the core together with the process port as libexclave.a and libexclave.so.

file(GLOB_RECURSE core_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*.cpp)
file(GLOB port_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/ports/process/*.cpp)

# The core, freestanding: checked by scripts/check_freestanding.sh, and the product of the freestanding preset.
add_library(exclave_core_freestanding OBJECT ${core_sources})
target_include_directories(exclave_core_freestanding PRIVATE include src ports)
target_compile_definitions(exclave_core_freestanding PRIVATE
  EXCLAVE_THREAD_SLOT_HEADER="freestanding/thread_slot.hpp")
exclave_core_freestanding_options(exclave_core_freestanding)

if(EXCLAVE_PORT STREQUAL "freestanding")
  add_library(exclave_core STATIC $<TARGET_OBJECTS:exclave_core_freestanding>)
  set_target_properties(exclave_core PROPERTIES LINKER_LANGUAGE CXX)
  return()
endif()

add_library(exclave_core OBJECT ${core_sources})
target_include_directories(exclave_core PRIVATE include src ports)
target_compile_definitions(exclave_core PRIVATE EXCLAVE_THREAD_SLOT_HEADER="process/thread_slot.hpp")
exclave_core_options(exclave_core)

add_library(exclave_port OBJECT ${port_sources})
target_include_directories(exclave_port PRIVATE include src ports)
target_compile_definitions(exclave_port PRIVATE EXCLAVE_THREAD_SLOT_HEADER="process/thread_slot.hpp")
exclave_library_options(exclave_port)

foreach(kind static shared)
  string(TOUPPER ${kind} KIND)
  add_library(exclave_${kind} ${KIND}
    $<TARGET_OBJECTS:exclave_core> $<TARGET_OBJECTS:exclave_port>)
  add_library(exclave::${kind} ALIAS exclave_${kind})
  target_include_directories(exclave_${kind} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(exclave_${kind} PUBLIC cxx_std_20)
  exclave_options(exclave_${kind})
  set_target_properties(exclave_${kind} PROPERTIES
    OUTPUT_NAME exclave EXPORT_NAME ${kind} LINKER_LANGUAGE CXX
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
endforeach()
# nodelete: threads that have used it call into it when they end, though it was closed by dlclose.
target_link_options(exclave_shared PRIVATE -Wl,--as-needed -Wl,-z,relro,-z,now -Wl,-z,nodelete)
if(NOT EXCLAVE_SANITIZE)
  # A missing symbol shows here, not at the user's. (A sanitizer's symbols come from the program.)
  target_link_options(exclave_shared PRIVATE -Wl,-z,defs)
endif()

# Static unless asked: a part of the trusted code base should not be exchangeable at load time.
if(BUILD_SHARED_LIBS)
  add_library(exclave::exclave ALIAS exclave_shared)
else()
  add_library(exclave::exclave ALIAS exclave_static)
endif()

# --- install ----------------------------------------------------------------------------------------------------
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/exclave)

install(TARGETS exclave_static exclave_shared EXPORT exclaveTargets)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/exclave DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT exclaveTargets NAMESPACE exclave:: DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/exclaveConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES cmake/exclaveConfig.cmake ${PROJECT_BINARY_DIR}/exclaveConfigVersion.cmake
  DESTINATION ${package_dir})

# The .pc file finds its prefix from where it lies, so that `cmake --install --prefix` and DESTDIR both work.
set(pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH pc_to_prefix /prefix/${pkgconfig_dir} /prefix)
configure_file(cmake/exclave.pc.in ${PROJECT_BINARY_DIR}/exclave.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/exclave.pc DESTINATION ${pkgconfig_dir})
