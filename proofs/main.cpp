// Proves what docs/proofs.md lists, one line for each theorem.
//   exclave_prove                  all of them
//   exclave_prove --only NAME      one of them
//   exclave_prove --list           their names and what they say
//   exclave_prove --list-plants    the mistakes that can be planted
//   exclave_prove --plant NAME     proves a theorem of code with that mistake in it: must fail
// Exit status: 0 all proven, 1 something was not, 2 bad arguments.
#include <chrono>
#include <cstdio>
#include <cstring>

#include "proofs/prover.hpp"

namespace exclave::proofs {
namespace {

bool prove(const char* name, const std::function<void(Prover&)>& body) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  Prover prover;
  try {
    body(prover);
  } catch (const z3::exception& error) {
    std::printf("NOT PROVEN  %-24s Z3: %s\n", name, error.msg());
    return false;
  }
  if (prover.failed()) {
    std::printf("NOT PROVEN  %-24s %s\n", name, prover.failure().c_str());
    return false;
  }
  std::printf("proven      %-24s %4u claims %6.2f s\n", name, prover.claims(),
              std::chrono::duration<double>(Clock::now() - start).count());
  std::fflush(stdout);
  return true;
}

int run(int argc, char** argv) {
  std::vector<Theorem> theorems;
  std::vector<Plant> plants;
  for (const Chapter& chapter : {bits_chapter(), ranges_chapter(), classes_chapter(),
                                 slots_chapter(), pages_chapter(), rings_chapter()}) {
    theorems.insert(theorems.end(), chapter.theorems.begin(), chapter.theorems.end());
    plants.insert(plants.end(), chapter.plants.begin(), chapter.plants.end());
  }
  if (argc == 1) {
    unsigned proven = 0;
    for (const Theorem& theorem : theorems) proven += prove(theorem.name, theorem.prove);
    std::printf("%u of %zu theorems proven\n", proven, theorems.size());
    return proven == theorems.size() ? 0 : 1;
  }
  if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
    for (const Theorem& theorem : theorems) std::printf("%-24s %s\n", theorem.name, theorem.says);
    return 0;
  }
  if (argc == 2 && std::strcmp(argv[1], "--list-plants") == 0) {
    for (const Plant& plant : plants) std::printf("%-32s %s\n", plant.name, plant.mistake);
    return 0;
  }
  if (argc == 3 && std::strcmp(argv[1], "--only") == 0) {
    for (const Theorem& theorem : theorems) {
      if (std::strcmp(theorem.name, argv[2]) == 0)
        return prove(theorem.name, theorem.prove) ? 0 : 1;
    }
    std::fprintf(stderr, "exclave_prove: no theorem named '%s' (see --list)\n", argv[2]);
    return 2;
  }
  if (argc == 3 && std::strcmp(argv[1], "--plant") == 0) {
    for (const Plant& plant : plants) {
      if (std::strcmp(plant.name, argv[2]) == 0) return prove(plant.name, plant.prove) ? 0 : 1;
    }
    std::fprintf(stderr, "exclave_prove: no plant named '%s' (see --list-plants)\n", argv[2]);
    return 2;
  }
  std::fprintf(stderr,
               "usage: exclave_prove [--only NAME | --list | --list-plants | --plant NAME]\n");
  return 2;
}

}  // namespace
}  // namespace exclave::proofs

int main(int argc, char** argv) {
  return exclave::proofs::run(argc, argv);
}
