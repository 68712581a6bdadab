#include "loader/trace.hpp"

#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/stats.hpp"
#include "loader/text.hpp"

namespace exclave::loader {
namespace {

using Text = Line<512>;

struct Name {
  std::uint64_t value;
  std::string_view name;
};

constexpr Name kProtections[] = {{PROT_READ, "PROT_READ"},
                                 {PROT_WRITE, "PROT_WRITE"},
                                 {PROT_EXEC, "PROT_EXEC"},
                                 {PROT_GROWSDOWN, "PROT_GROWSDOWN"},
                                 {PROT_GROWSUP, "PROT_GROWSUP"}};
constexpr Name kMapFlags[] = {
    {MAP_FIXED, "MAP_FIXED"},         {MAP_ANONYMOUS, "MAP_ANONYMOUS"},
    {MAP_32BIT, "MAP_32BIT"},         {MAP_GROWSDOWN, "MAP_GROWSDOWN"},
    {MAP_DENYWRITE, "MAP_DENYWRITE"}, {MAP_LOCKED, "MAP_LOCKED"},
    {MAP_NORESERVE, "MAP_NORESERVE"}, {MAP_POPULATE, "MAP_POPULATE"},
    {MAP_NONBLOCK, "MAP_NONBLOCK"},   {MAP_STACK, "MAP_STACK"},
    {MAP_HUGETLB, "MAP_HUGETLB"},     {MAP_FIXED_NOREPLACE, "MAP_FIXED_NOREPLACE"}};
constexpr Name kRemapFlags[] = {{MREMAP_MAYMOVE, "MREMAP_MAYMOVE"},
                                {MREMAP_FIXED, "MREMAP_FIXED"},
                                {MREMAP_DONTUNMAP, "MREMAP_DONTUNMAP"}};
constexpr Name kSyncFlags[] = {
    {MS_ASYNC, "MS_ASYNC"}, {MS_INVALIDATE, "MS_INVALIDATE"}, {MS_SYNC, "MS_SYNC"}};
constexpr Name kAdvices[] = {
    {0, "MADV_NORMAL"},      {1, "MADV_RANDOM"},         {2, "MADV_SEQUENTIAL"},
    {3, "MADV_WILLNEED"},    {4, "MADV_DONTNEED"},       {8, "MADV_FREE"},
    {9, "MADV_REMOVE"},      {10, "MADV_DONTFORK"},      {11, "MADV_DOFORK"},
    {12, "MADV_MERGEABLE"},  {13, "MADV_UNMERGEABLE"},   {14, "MADV_HUGEPAGE"},
    {15, "MADV_NOHUGEPAGE"}, {16, "MADV_DONTDUMP"},      {17, "MADV_DODUMP"},
    {18, "MADV_WIPEONFORK"}, {19, "MADV_KEEPONFORK"},    {20, "MADV_COLD"},
    {21, "MADV_PAGEOUT"},    {22, "MADV_POPULATE_READ"}, {23, "MADV_POPULATE_WRITE"}};
constexpr Name kErrors[] = {
    {EPERM, "EPERM"},           {ENOENT, "ENOENT"},  {EIO, "EIO"},       {EBADF, "EBADF"},
    {EAGAIN, "EAGAIN"},         {ENOMEM, "ENOMEM"},  {EACCES, "EACCES"}, {EFAULT, "EFAULT"},
    {EBUSY, "EBUSY"},           {EEXIST, "EEXIST"},  {ENODEV, "ENODEV"}, {EINVAL, "EINVAL"},
    {ENFILE, "ENFILE"},         {ENOSYS, "ENOSYS"},  {EIDRM, "EIDRM"},   {EOVERFLOW, "EOVERFLOW"},
    {EOPNOTSUPP, "EOPNOTSUPP"}, {ETXTBSY, "ETXTBSY"}};

// What stands for an argument: one letter each.
// p pointer, u unsigned, d int, o octal flags, P protection, F mmap's flags, R mremap's, S msync's,
// A advice.
struct Shape {
  std::uint64_t number;
  std::string_view name, arguments;
};
constexpr Shape kShapes[] = {{__NR_mmap, "mmap", "puPFdx"},
                             {__NR_munmap, "munmap", "pu"},
                             {__NR_mprotect, "mprotect", "puP"},
                             {__NR_mremap, "mremap", "puuRp"},
                             {__NR_madvise, "madvise", "puA"},
                             {__NR_msync, "msync", "puS"},
                             {__NR_mincore, "mincore", "pup"},
                             {__NR_mlock, "mlock", "pu"},
                             {__NR_mlock2, "mlock2", "pux"},
                             {__NR_munlock, "munlock", "pu"},
                             {__NR_mlockall, "mlockall", "x"},
                             {__NR_munlockall, "munlockall", ""},
                             {__NR_brk, "brk", "p"},
                             {__NR_pkey_mprotect, "pkey_mprotect", "puPd"},
                             {__NR_remap_file_pages, "remap_file_pages", "puPux"},
                             {__NR_shmat, "shmat", "dpx"},
                             {__NR_shmdt, "shmdt", "p"},
                             {__NR_io_setup, "io_setup", "up"},
                             {__NR_io_destroy, "io_destroy", "p"},
                             {__NR_ptrace, "ptrace", "ddpp"},
                             {462, "mseal", "pux"}};

template <std::size_t kCount>
const Name* find(const Name (&names)[kCount], std::uint64_t value) noexcept {
  for (const Name& name : names) {
    if (name.value == value) return &name;
  }
  return nullptr;
}

template <std::size_t kCount>
void put_flags(Text& text, const Name (&names)[kCount], std::uint64_t value,
               std::string_view first) noexcept {
  bool any = !first.empty();
  text.text(first);
  for (const Name& name : names) {
    if ((value & name.value) == 0) continue;
    if (any) text.put('|');
    text.text(name.name);
    value &= ~name.value;
    any = true;
  }
  if (value == 0 && any) return;
  if (any) text.put('|');
  text.hex(value);
}

void put_map_flags(Text& text, std::uint64_t flags) noexcept {
  std::string_view type;
  if ((flags & MAP_TYPE) == MAP_SHARED) type = "MAP_SHARED";
  if ((flags & MAP_TYPE) == MAP_PRIVATE) type = "MAP_PRIVATE";
  if ((flags & MAP_TYPE) == MAP_SHARED_VALIDATE) type = "MAP_SHARED_VALIDATE";
  put_flags(text, kMapFlags, type.empty() ? flags : flags & ~std::uint64_t{MAP_TYPE}, type);
}

void put_argument(Text& text, char shape, std::uintptr_t value) noexcept {
  const Name* name = nullptr;
  switch (shape) {
    case 'p':
      if (value == 0) {
        text.text("NULL");
      } else {
        text.hex(value);
      }
      break;
    case 'd':
      text.decimal(static_cast<int>(value));
      break;
    case 'u':
      text.unsigned_decimal(value);
      break;
    case 'P':
      if (value == 0) {
        text.text("PROT_NONE");
      } else {
        put_flags(text, kProtections, value, "");
      }
      break;
    case 'F':
      put_map_flags(text, value);
      break;
    case 'R':
      put_flags(text, kRemapFlags, value, "");
      break;
    case 'S':
      put_flags(text, kSyncFlags, value, "");
      break;
    case 'A':
      name = find(kAdvices, value);
      if (name != nullptr) {
        text.text(name->name);
      } else {
        text.unsigned_decimal(value);
      }
      break;
    default:
      text.hex(value);
  }
}

bool answers_address(long number) noexcept {
  return number == __NR_mmap || number == __NR_mremap || number == __NR_brk || number == __NR_shmat;
}

std::string_view name_of(Route route) noexcept {
  switch (route) {
    case Route::kInside:
      return "inside";
    case Route::kOutside:
      return "outside";
    case Route::kSplit:
      return "split";
    case Route::kRefused:
      return "refused";
    case Route::kNone:
      break;
  }
  return "none";
}

}  // namespace

void trace_call(const Call& call, long result, Route route) noexcept {
  if (!g_process.options.trace) return;
  const Shape* shape = nullptr;
  for (const Shape& known : kShapes) {
    if (known.number == static_cast<std::uint64_t>(call.number)) shape = &known;
  }
  if (shape == nullptr) return;
  Text text;
  text.text("[").decimal(system_call(__NR_gettid)).text("] ").text(shape->name).put('(');
  for (std::size_t i = 0; i < shape->arguments.size(); ++i) {
    if (i != 0) text.text(", ");
    put_argument(text, shape->arguments[i], call.a[i]);
  }
  text.text(") = ");
  if (failed(result)) {
    const Name* const error = find(kErrors, static_cast<std::uint64_t>(-result));
    text.text("-1 ");
    if (error != nullptr) {
      text.text(error->name);
    } else {
      text.text("errno ").decimal(-result);
    }
  } else if (answers_address(call.number)) {
    text.hex(static_cast<std::uint64_t>(result));
  } else {
    text.decimal(result);
  }
  text.text(" <").text(name_of(route)).text(">\n");
  text.write_to(output_descriptor());
}

}  // namespace exclave::loader
