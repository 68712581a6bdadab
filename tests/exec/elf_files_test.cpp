// Programs made by hand, of one segment: where they are linked to, and files that are not whole.
#include <elf.h>

#include <cstring>

#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class ElfFilesTest : public ExecTest {
 protected:
  struct Program {
    Elf64_Half type = ET_EXEC;
    Elf64_Addr address = 0x400000;
    Elf64_Word flags = PF_R | PF_W | PF_X;
    std::size_t memory_bytes = 0x3000;
    std::size_t file_bytes = 0x1234;  // as its header has it
    std::size_t there_bytes = 0x1234;
    // A second header: of no use to the program.
    Elf64_Phdr second{};
  };
  // Ends with code 7, and with 8 where what lies behind the file's bytes is not zero.
  std::string make(const std::string& name, const Program& program) const {
    std::string bytes(std::max<std::size_t>(program.there_bytes, 0x100), '\x01');
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = program.type;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_entry = program.address + kCodeAt;
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = program.second.p_type == PT_NULL ? 1 : 2;
    Elf64_Phdr part{};
    part.p_type = PT_LOAD;
    part.p_flags = program.flags;
    part.p_vaddr = part.p_paddr = program.address;
    part.p_filesz = program.file_bytes;
    part.p_memsz = program.memory_bytes;
    part.p_align = 0x1000;
    std::memcpy(bytes.data(), &header, sizeof header);
    std::memcpy(bytes.data() + sizeof header, &part, sizeof part);
    std::memcpy(bytes.data() + sizeof header + sizeof part, &program.second, sizeof part);
    // movl $7, %edi; addl behind(%rip), %edi; movl $231, %eax; syscall
    constexpr unsigned char kCode[] = {0xbf, 7, 0,    0,   0, 0x03, 0x3d, 0,    0,
                                       0,    0, 0xb8, 231, 0, 0,    0,    0x0f, 0x05};
    const auto distance = static_cast<std::int32_t>(program.file_bytes - kCodeAt - 11);
    std::memcpy(bytes.data() + kCodeAt, kCode, sizeof kCode);
    std::memcpy(bytes.data() + kCodeAt + 7, &distance, sizeof distance);
    bytes.resize(program.there_bytes);
    return write(name, bytes, 0755);
  }

 private:
  static constexpr std::size_t kCodeAt = 0xc0;

 protected:
  static constexpr std::size_t kTextAt = 0xe0;  // nothing but what `make` filled it with
};

TEST_F(ElfFilesTest, LinkedToAnyPlace) {
  Program program;
  for (const int type : {ET_EXEC, ET_DYN}) {
    program.type = static_cast<Elf64_Half>(type);
    for (const Elf64_Addr address : {0x400000ul, 0x12345000ul, 0x700000000ul}) {
      program.address = address;
      EXPECT_EQ(expect_same({make("program", program)}).code, 7) << type << ' ' << address;
    }
  }
  // One that may be moved is, also from where nothing can be.
  for (const Elf64_Addr address : {0x0ul, 0x555500000000ul, 0x7ffffff00000ul, 0x700000000000ul}) {
    program.address = address;
    EXPECT_EQ(expect_same({make("program", program)}).code, 7) << address;
  }
}

TEST_F(ElfFilesTest, LinkedToAHighPlaceWithLibraries) {
  std::string bytes = text_of(built("high_hello"));
  bytes[offsetof(Elf64_Ehdr, e_type)] = ET_DYN;  // GNU ld takes a place for a fixed one
  const std::string program = write("high", bytes, 0755);
  EXPECT_EQ(expect_same({program, "an argument"}).out, program + "\nan argument\n");
}

// Where nothing of it is in the file, nobody asks where it would be.
TEST_F(ElfFilesTest, PartsWithoutBytesInTheFile) {
  Program program;
  program.second.p_type = PT_LOAD;
  program.second.p_flags = PF_R | PF_W;
  program.second.p_memsz = 0x2000;
  program.second.p_align = 0x1000;
  for (const Elf64_Off offset : {0x0ul, 0x123ul, 0x7fffffffful}) {
    program.second.p_vaddr = 0x500010;
    program.second.p_offset = offset;
    EXPECT_EQ(expect_same({make("program", program)}).code, 7) << offset;
  }
  program.second.p_filesz = 1;
  program.second.p_offset = 0x123;
  EXPECT_EQ(run_inside({make("program", program)}).code, 126);
}

TEST_F(ElfFilesTest, InterpretersWithoutAName) {
  Program program;
  program.second.p_type = PT_INTERP;
  program.second.p_offset = kTextAt;
  for (const std::size_t bytes : {1u, 2u, 3u}) {
    program.second.p_filesz = bytes;
    std::string file = text_of(make("program", program));
    std::fill_n(file.begin() + kTextAt, bytes, '\0');
    write("program", file, 0755);
    const RunResult inside = expect_same(
        {"/usr/bin/python3", "-c",
         "import os\ntry: os.execv('./program', ['program'])\nexcept OSError as e: print(e)"});
    EXPECT_NE(inside.out.find(bytes == 1 ? "Exec format" : "Permission denied"), std::string::npos)
        << inside.out;
  }
}

TEST_F(ElfFilesTest, FilesThatAreNotWhole) {
  Program program;
  for (const std::size_t there : {0x1200ul, 0x1000ul, 0x800ul}) {
    program.there_bytes = there;
    const RunResult inside = run_inside({make("program", program)});
    if (there > 0x1000) {
      EXPECT_EQ(inside.code, run({path("program")}).code);
      continue;
    }
    EXPECT_EQ(inside.code, 126) << there;
    EXPECT_EQ(inside.err, "exclave: exec: " + path("program") +
                              ": not a program for 64-bit x86 Linux, nor a script\n");
    EXPECT_NE(run({path("program")}).code, 0);
  }
}

}  // namespace
}  // namespace exclave::loader
