// What the command line lets lie outside does, everything else does not.
#include <regex>

#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class OutsideTest : public ExecTest {
 protected:
  static bool has_line(const std::string& text, const std::string& pattern) {
    return std::regex_search(text, std::regex(pattern));
  }
};

constexpr const char* kEnd = "0x40000000";  // of 1G

TEST_F(OutsideTest, AllowedSharedMemoryLiesOutside) {
  const RunResult inside =
      run_inside({built("outside"), kEnd},
                 {"--elrange", "1G", "--allow-device", "/memfd:", "--trace", "--stats"});
  EXPECT_EQ(inside.out,
            "outside: 1\n"
            "a private one: 0\n"
            "read: 20 through the mapping\n"
            "with execution: EACCES\n"
            "execution later: EACCES\n"
            "protect: done\n"
            "unmap the middle: done\n"
            "sync over the hole: ENOMEM\n"
            "advise over the hole: ENOMEM\n"
            "core: done\n"
            "core of the hole: ENOMEM\n"
            "protect over the hole: ENOMEM\n"
            "shrink: done\n"
            "grow: done\n"
            "end of the file through it: 1\n"
            "to a place: 1\n"
            "in place: 1\n"
            "unmap: done\n"
            "child: 9, still here: 0\n"
            "at the edge: 1\n"
            "unmap over the edge: done\n"
            "gone: ENOMEM\n"
            "foreign memory: ENOMEM\n"
            "foreign unmap: done\n"
            "all: done\n");
  EXPECT_EQ(inside.code, 0) << inside.err;
  const std::string& trace = inside.err;
  EXPECT_TRUE(has_line(trace,
                       "mmap\\(NULL, 32768, PROT_READ\\|PROT_WRITE, MAP_SHARED, [0-9]+, 0x0\\) "
                       "= 0x7[0-9a-f]+ <outside>"))
      << trace;
  EXPECT_TRUE(has_line(trace,
                       "mmap\\(NULL, 4096, PROT_READ, MAP_PRIVATE, [0-9]+, 0x0\\) = "
                       "0x[0-9a-f]{7,8} <inside>"))
      << trace;
  EXPECT_TRUE(has_line(trace, "MAP_SHARED, [0-9]+, 0x0\\) = -1 EACCES <refused>")) << trace;
  EXPECT_TRUE(has_line(trace, "munmap\\(0x3ffff000, 8192\\) = 0 <split>")) << trace;
  EXPECT_TRUE(
      has_line(trace, "mprotect\\(0x700000000000, 4096, PROT_NONE\\) = -1 ENOMEM <refused>"))
      << trace;
  EXPECT_TRUE(has_line(trace, "outside: 0 regions, 0 KiB, 3 device maps")) << trace;
}

TEST_F(OutsideTest, NothingLiesOutsideByDefault) {
  const RunResult inside = run_inside({built("outside"), kEnd},
                                      {"--elrange", "1G", "--allow-device", "/dev", "--trace"});
  EXPECT_EQ(inside.out.substr(0, 11), "outside: 0\n");
  EXPECT_FALSE(has_line(inside.err, "MAP_SHARED.* <outside>")) << inside.err;
}

TEST_F(OutsideTest, DevicesByNameAndByNumber) {
  const Words program{built("shared")};
  const auto maps = [&](const std::string& allowed) {
    const RunResult inside = run_inside(program, {"--trace", "--allow-device", allowed});
    EXPECT_EQ(inside.code, 0);
    EXPECT_EQ(inside.out, run(program).out) << allowed;
    const std::regex outside("MAP_SHARED, [0-9]+, 0x0\\) = 0x[0-9a-f]+ <outside>");
    return std::distance(std::sregex_iterator(inside.err.begin(), inside.err.end(), outside), {});
  };
  EXPECT_EQ(maps("/dev/zero"), 1);
  EXPECT_EQ(maps("/dev/shm"), 1);
  EXPECT_EQ(maps("/memfd:"), 4);
  EXPECT_EQ(maps("/memfd:exclave-test"), 4);
  EXPECT_EQ(maps("/memfd:exclave"), 0);
  EXPECT_EQ(maps("/dev/ze"), 0);
  EXPECT_EQ(maps("/dev"), 2);
  // Another name of the same device.
  std::filesystem::create_symlink("/dev/zero", path("link"));
  EXPECT_EQ(maps(path("link")), 1);
}

TEST_F(OutsideTest, LongNames) {
  std::string folder = path("");
  while (folder.size() < 1100) folder.append(200, 'a').push_back('/');
  std::filesystem::create_directories(folder);
  const std::string cut = (folder + std::string(200, 'a')).substr(0, 1024);
  const std::string file = folder + "file";
  std::ofstream(file) << std::string(4096, 'x');
  const Words program{"/usr/bin/python3", "-c",
                      "import mmap, sys\n"
                      "with open(sys.argv[1], 'r+b') as f: print(len(mmap.mmap(f.fileno(), 4096)))",
                      file};
  for (const std::string& allowed : {file, cut}) {
    const RunResult inside = run_inside(program, {"--trace", "--allow-device", allowed});
    EXPECT_EQ(inside.out, "4096\n") << inside.err;
    EXPECT_EQ(has_line(inside.err, "MAP_SHARED.* <outside>"), allowed == file);
  }
}

TEST_F(OutsideTest, RingsOfPerformanceEvents) {
  const Words program{built("perf_ring")};
  const RunResult native = run(program);
  if (native.code == 77) GTEST_SKIP() << "the kernel gives no performance events here";
  ASSERT_EQ(native.code, 0) << native.out;
  for (const Words& options : {Words{}, Words{"--allow-device", "anon_inode:[perf_event]"}}) {
    Words traced = options;
    traced.push_back("--trace");
    const RunResult inside = run_inside(program, traced);
    EXPECT_EQ(inside.code, 0) << inside.err;
    EXPECT_EQ(inside.out, native.out);
    const char* const route = options.empty() ? "inside" : "outside";
    EXPECT_TRUE(has_line(inside.err, std::string("mmap\\(NULL, 36864, .*MAP_SHARED.* <") + route))
        << inside.err;
  }
}

}  // namespace
}  // namespace exclave::loader
