// Workloads a to g beside the mallocs of this process (pairs.hpp).
#include "pairs.hpp"

namespace bench {
namespace {

template <class Policy>
void add_churns() {
  add<Policy>("c3", replace_small<Policy, 1'000>);
  add<Policy>("c4", replace_small<Policy, 10'000>);
  add<Policy>("c5", replace_small<Policy, 100'000>);
}

template <class Policy>
void add_all() {
  add<Policy>("a", pairs<Policy>);
  add<Policy>("b", batches<Policy>);
  add_churns<Policy>();
  add<Policy>("c6", replace_small<Policy, 1'000'000>);
  add<Policy>("c3u", replace_small<Policy, 1'000, false>);
  add<Policy>("c4u", replace_small<Policy, 10'000, false>);
  add<Policy>("c5u", replace_small<Policy, 100'000, false>);
  add<Policy>("d", replace_large<Policy>);
  add<Policy>("e", batches<Policy>)->Threads(2);
  add<Policy>("f", producer_consumer<Policy>)->Threads(2);
  add<Policy>("g0", page_runs<Policy, 1, 512>);
  add<Policy>("g3", page_runs<Policy, 8, 512>);
  add<Policy>("g9", page_runs<Policy, 512, 16>);
}

[[maybe_unused]] const bool added = [] {
  add_all<NullPolicy>();
  add_all<MallocPolicy>();
  add_all<ExclavePolicy>();
  add_churns<ExclaveStorePolicy>();
  return true;
}();

}  // namespace
}  // namespace bench
