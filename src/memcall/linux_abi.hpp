// The numbers of the Linux system call interface on x86-64 that the memory calls speak. The core
// includes no libc header.
#pragma once

#include <cstdint>

namespace exclave::linux_abi {

inline constexpr int kEPERM = 1, kEIO = 5, kEBADF = 9, kEAGAIN = 11, kENOMEM = 12, kEACCES = 13,
                     kEFAULT = 14, kEBUSY = 16, kEEXIST = 17, kENODEV = 19, kEINVAL = 22,
                     kENFILE = 23, kETXTBSY = 26, kENOSYS = 38, kEOPNOTSUPP = 95, kEOVERFLOW = 75;

inline constexpr int kProtRead = 1, kProtWrite = 2, kProtExec = 4, kProtAll = 7, kProtSem = 8;
inline constexpr int kMapShared = 0x1, kMapPrivate = 0x2, kMapSharedValidate = 0x3,
                     kMapTypeMask = 0xf, kMapFixed = 0x10, kMapAnonymous = 0x20, kMap32Bit = 0x40,
                     kMapGrowsDown = 0x100, kMapLocked = 0x2000, kMapNoReserve = 0x4000,
                     kMapPopulate = 0x8000, kMapHugeTlb = 0x40000, kMapSync = 0x80000,
                     kMapFixedNoReplace = 0x100000;
inline constexpr std::uintptr_t kMap32BitEnd = std::uintptr_t{1} << 31;
// Of memory of nobody's, or of a descriptor.
constexpr bool is_map_type(int flags) noexcept {
  const int type = flags & kMapTypeMask;
  return type == kMapPrivate || type == kMapShared ||
         (type == kMapSharedValidate && (flags & kMapAnonymous) == 0);
}
inline constexpr int kEHWPOISON = 133;
inline constexpr int kMsAsync = 1, kMsInvalidate = 2, kMsSync = 4, kMsAll = 7;
inline constexpr int kMlockOnFault = 1;
inline constexpr int kMclCurrent = 1, kMclFuture = 2, kMclOnFault = 4, kMclAll = 7;
// madvise, as Linux 6.1 knows it where it is not built to poison memory: 0 to 4, 8 to 25.
inline constexpr int kMadvDontNeed = 4, kMadvFree = 8, kMadvRemove = 9, kMadvDontFork = 10,
                     kMadvDoFork = 11, kMadvWipeOnFork = 18, kMadvKeepOnFork = 19, kMadvCold = 20,
                     kMadvPageOut = 21, kMadvPopulateRead = 22, kMadvPopulateWrite = 23,
                     kMadvDontNeedLocked = 24, kMadvCollapse = 25;
inline constexpr int kMremapMayMove = 1, kMremapFixed = 2, kMremapDontUnmap = 4, kMremapAll = 7;

}  // namespace exclave::linux_abi
