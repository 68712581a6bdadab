// Programs from Debian's packages, unmodified: they do their work, and it is right.
#include <signal.h>

#include <chrono>
#include <thread>

#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class RealProgramsTest : public ExecTest {
 protected:
  // setup.sh installs all of them; whoever left that out sees which are missing.
  static bool is_missing(const std::string& program) {
    return ::access(program.c_str(), X_OK) != 0;
  }
  void expect_output(const Words& program, const std::string& out,
                     const Words& options = {}) const {
    const RunResult inside = run_inside(program, options);
    EXPECT_EQ(inside.out, out) << inside.err;
    EXPECT_EQ(inside.code, 0) << inside.err;
  }
};

#define EXCLAVE_NEEDS(program) \
  if (is_missing(program)) GTEST_SKIP() << program << " is not installed"

TEST_F(RealProgramsTest, PythonThreads) {
  EXCLAVE_NEEDS("/usr/bin/python3");
  expect_output({"/usr/bin/python3", "-c", R"(
import threading
done = []
def work(i):
    blocks = [bytes([i]) * (1 << 20) for _ in range(20)]
    done.append(sum(block[-1] for block in blocks))
threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(done) == [20 * i for i in range(16)])
)"},
                "True\n");
}

TEST_F(RealProgramsTest, PythonSubprocesses) {
  EXCLAVE_NEEDS("/usr/bin/python3");
  expect_output({"/usr/bin/python3", "-c", R"(
import subprocess, os, sys
for close_fds in (True, False):
    print(subprocess.run(['cat'], input=b'through', capture_output=True, close_fds=close_fds).stdout)
print(subprocess.run('exit 3', shell=True).returncode)
print(subprocess.run(['sh', '-c', 'kill -9 $$']).returncode)
try:
    subprocess.run(['/no/such/program'])
except FileNotFoundError as error:
    print('not found')
pid = os.fork()
if pid == 0:
    os._exit(len(bytearray(1 << 20)) >> 18)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
)"},
                "b'through'\nb'through'\n3\n-9\nnot found\n4\n");
}

TEST_F(RealProgramsTest, PythonMultiprocessing) {
  EXCLAVE_NEEDS("/usr/bin/python3");
  const std::string script = write("work.py", R"(
import multiprocessing, mmap, os
def square(x): return x * x
def add(value):
    for _ in range(200):
        with value.get_lock(): value.value += 1
if __name__ == '__main__':
    for way in ('fork', 'spawn', 'forkserver'):
        context = multiprocessing.get_context(way)
        with context.Pool(3) as pool: print(way, sum(pool.map(square, range(500))))
        value = context.Value('i', 0)
        processes = [context.Process(target=add, args=(value,)) for _ in range(3)]
        [process.start() for process in processes]
        [process.join() for process in processes]
        print(value.value)
    memory = mmap.mmap(-1, 4096)
    if os.fork() == 0:
        memory[:5] = b'child'
        os._exit(0)
    os.wait()
    print(memory[:5])
)");
  expect_output({"/usr/bin/python3", script},
                "fork 41541750\n600\nspawn 41541750\n600\nforkserver 41541750\n600\nb'child'\n");
}

TEST_F(RealProgramsTest, SqliteWithMappedFilesAndSharedLog) {
  EXCLAVE_NEEDS("/usr/bin/sqlite3");
  const std::string fill =
      "PRAGMA mmap_size=268435456; PRAGMA journal_mode=WAL; CREATE TABLE t(a INTEGER PRIMARY KEY, "
      "b);"
      "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<50000) "
      "INSERT INTO t SELECT x, hex(x*7919) FROM c; CREATE INDEX i ON t(b);"
      "SELECT count(*), sum(length(b)) FROM t; PRAGMA integrity_check;";
  const std::string again = "SELECT count(*), sum(length(b)) FROM t; PRAGMA integrity_check;";
  const RunResult inside = run_inside({"/usr/bin/sqlite3", path("in.db"), fill});
  const RunResult native = run({"/usr/bin/sqlite3", path("out.db"), fill});
  EXPECT_EQ(inside.out, native.out);
  EXPECT_NE(native.out.find("ok\n"), std::string::npos) << native.out << native.err;
  EXPECT_EQ(run({"/usr/bin/sqlite3", path("in.db"), again}).out,
            run({"/usr/bin/sqlite3", path("out.db"), again}).out);
}

TEST_F(RealProgramsTest, CompilerMakesTheSameProgram) {
  EXCLAVE_NEEDS("/usr/bin/gcc");
  const std::string source =
      write("hello.c", "#include <stdio.h>\nint main() { puts(\"hello\"); }\n");
  EXPECT_EQ(run({"/usr/bin/gcc", "-O2", "-o", path("native"), source}).code, 0);
  const RunResult inside = run_inside({"/usr/bin/gcc", "-O2", "-o", path("inside"), source});
  EXPECT_EQ(inside.code, 0) << inside.err;
  EXPECT_EQ(text("native"), text("inside"));
  EXPECT_EQ(run({path("inside")}).out, "hello\n");
}

TEST_F(RealProgramsTest, RedisServesAndSavesInTheBackground) {
  EXCLAVE_NEEDS("/usr/bin/redis-check-rdb");
  // One program under several names, and the package with the server would start one.
  std::filesystem::create_symlink("/usr/bin/redis-check-rdb", path("redis-server"));
  const std::string socket = path("socket");
  const pid_t server = ::fork();
  if (server == 0) {
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, 1);
    ::dup2(null, 2);
    ::alarm(60);
    ::execl(tool().c_str(), "exclave", "exec", "--", path("redis-server").c_str(), "--port", "0",
            "--unixsocket", socket.c_str(), "--save", "", "--dir", folder_.c_str(), nullptr);
    ::_exit(125);
  }
  const auto ask = [&](Words words) {
    words.insert(words.begin(), {"/usr/bin/redis-cli", "-s", socket});
    return run(words).out;
  };
  const auto wait_until = [&](const Words& words, const std::string& part) {
    for (int i = 0; i < 200; ++i) {
      if (ask(words).find(part) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  };
  EXPECT_TRUE(wait_until({"ping"}, "PONG"));
  EXPECT_EQ(
      run({"/usr/bin/redis-benchmark", "-s", socket, "-n", "5000", "-q", "-t", "set,get,lpush"})
          .code,
      0);
  EXPECT_EQ(ask({"set", "key", "value"}), "OK\n");
  EXPECT_EQ(ask({"bgsave"}), "Background saving started\n");
  EXPECT_TRUE(wait_until({"info", "persistence"}, "rdb_bgsave_in_progress:0"));
  EXPECT_NE(ask({"info", "persistence"}).find("rdb_last_bgsave_status:ok"), std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(path("dump.rdb")));
  EXPECT_EQ(ask({"get", "key"}), "value\n");
  (void)ask({"shutdown", "nosave"});
  int status = 0;
  EXPECT_EQ(::waitpid(server, &status, 0), server);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(RealProgramsTest, FioVerifiesWhatItWroteByEveryEngine) {
  EXCLAVE_NEEDS("/usr/bin/fio");
  for (const char* engine : {"io_uring", "libaio", "mmap", "psync"}) {
    const Words job{"/usr/bin/fio",
                    "--name=job",
                    std::string("--filename=") + path("data"),
                    "--size=4M",
                    "--rw=randrw",
                    "--bs=4k",
                    "--iodepth=8",
                    "--thread=0",
                    "--verify=crc32c",
                    "--verify_fatal=1",
                    "--do_verify=1",
                    std::string("--ioengine=") + engine,
                    "--output-format=terse"};
    if (run(job).code != 0) continue;  // no such engine on this system
    const RunResult inside =
        run_inside(job, {"--allow-device", "anon_inode:[io_uring]", "--stats"});
    EXPECT_EQ(inside.code, 0) << engine << inside.err << inside.out;
    if (std::string(engine) == "io_uring") {
      EXPECT_NE(inside.err.find("3 device maps"), std::string::npos) << inside.err;
    }
  }
}

TEST_F(RealProgramsTest, StressorsOfMemory) {
  EXCLAVE_NEEDS("/usr/bin/stress-ng");
  for (const char* stressor : {"mmapaddr", "mmapfixed", "brk", "madvise", "mincore", "msync",
                               "shm-sysv", "fork", "vfork", "clone", "stackmmap", "pkey", "aio"}) {
    const Words words{"/usr/bin/stress-ng",
                      std::string("--") + stressor,
                      "1",
                      std::string("--") + stressor + "-ops",
                      "4",
                      "--timeout",
                      "2",
                      "--verify"};
    const RunResult inside = run_inside(words);
    // Some want what this system has not; then they say so natively, too.
    if (inside.code != 0) {
      EXPECT_EQ(inside.code, run(words).code) << stressor << inside.err << inside.out;
    }
  }
}

TEST_F(RealProgramsTest, TcpdumpCapturesThroughItsRing) {
  EXCLAVE_NEEDS("/usr/bin/tcpdump");
  // Packets until it has seen enough of them, for it may come late.
  const std::string command =
      "tcpdump -i lo -c 4 -w " + path("packets") +
      " udp port 9 2>/dev/null & for i in {1..400}; do kill -0 $! 2>/dev/null || break; "
      "echo x > /dev/udp/127.0.0.1/9; sleep 0.05; done; kill $! 2>/dev/null; wait $!";
  const RunResult native = run({"/bin/bash", "-c", command});
  if (native.code != 0) GTEST_SKIP() << "no right to capture here";
  std::filesystem::remove(path("packets"));
  const RunResult inside = run_inside({"/bin/bash", "-c", command},
                                      {"--allow-device", "socket:", "--trace=" + path("trace")});
  EXPECT_EQ(inside.code, 0) << inside.err;
  EXPECT_GT(std::filesystem::file_size(path("packets")), 4 * 16u);
  EXPECT_NE(text("trace").find("<outside>"), std::string::npos);
}

}  // namespace
}  // namespace exclave::loader
