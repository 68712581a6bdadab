// The numbers of the Linux system call interface on x86-64 that the memory calls speak. The core
// includes no libc header.
#pragma once

#include <cstdint>

namespace exclave::linux_abi {

inline constexpr int kEPERM = 1, kEIO = 5, kEBADF = 9, kEAGAIN = 11, kENOMEM = 12, kEACCES = 13,
                     kEFAULT = 14, kEBUSY = 16, kEEXIST = 17, kENODEV = 19, kEINVAL = 22,
                     kENFILE = 23, kETXTBSY = 26, kENOSYS = 38, kEOPNOTSUPP = 95, kEOVERFLOW = 75;

inline constexpr int kProtRead = 1, kProtWrite = 2, kProtExec = 4, kProtAll = 7;
inline constexpr int kMapShared = 0x1, kMapPrivate = 0x2, kMapSharedValidate = 0x3,
                     kMapTypeMask = 0xf, kMapFixed = 0x10, kMapAnonymous = 0x20, kMap32Bit = 0x40,
                     kMapGrowsDown = 0x100, kMapLocked = 0x2000, kMapNoReserve = 0x4000,
                     kMapHugeTlb = 0x40000, kMapSync = 0x80000, kMapFixedNoReplace = 0x100000;
inline constexpr int kMremapMayMove = 1, kMremapFixed = 2, kMremapDontUnmap = 4, kMremapAll = 7;

}  // namespace exclave::linux_abi
