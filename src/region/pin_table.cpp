#include "region/pin_table.hpp"

#include <new>

namespace exclave {

std::uintptr_t PinTable::Traits::max_end_of(const Pin& pin) noexcept {
  std::uintptr_t end = pin.extent.end();
  for (const Pin* child : {pin.links.left, pin.links.right}) {
    if (child != nullptr && child->max_end > end) end = child->max_end;
  }
  return end;
}

const Pin* PinTable::first_in(Extent range) const noexcept {
  // Left is entered only when something there ends late enough; if that finds nothing, then neither
  // would the right.
  const Pin* pin = tree_.root();
  while (pin != nullptr && pin->max_end > range.base) {
    if (pin->extent.overlaps(range)) return pin;
    const Pin* const left = pin->links.left;
    pin = left != nullptr && left->max_end > range.base ? left : pin->links.right;
  }
  return nullptr;
}

bool PinTable::grow() noexcept {
  const std::uint32_t count = slot_count_ == 0 ? 16 : slot_count_ * 2;
  Slot* const slots = static_cast<Slot*>(books_.allocate(BookKind::kPlain, count * sizeof(Slot)));
  if (slots == nullptr) return false;
  for (std::uint32_t i = 0; i < slot_count_; ++i) slots[i] = slots_[i];
  for (std::uint32_t i = count; i-- > slot_count_;) {
    slots[i] = Slot{nullptr, 0, first_free_};
    first_free_ = i + 1;
  }
  if (slots_ != nullptr) books_.release(BookKind::kPlain, slots_, slot_count_ * sizeof(Slot));
  slots_ = slots;
  slot_count_ = count;
  return true;
}

Result<PinId> PinTable::add(Extent extent) noexcept {
  if (first_free_ == 0 && !grow()) return Error::kOutOfTrustedMemory;
  void* const memory = books_.allocate(BookKind::kPlain, sizeof(Pin));
  if (memory == nullptr) return Error::kOutOfTrustedMemory;
  Pin* const pin = ::new (memory) Pin;
  const std::uint32_t index = first_free_ - 1;
  Slot& slot = slots_[index];
  first_free_ = slot.next_free;
  slot.pin = pin;
  slot.serial += 1;
  pin->extent = extent;
  pin->index = index;
  tree_.insert(*pin);
  ++count_;
  return id_of(*pin);
}

void PinTable::make_whole(PinId id) noexcept {
  Pin& pin = *slots_[(id.value & 0xffffffff) - 1].pin;
  tree_.erase(pin);
  pin.whole_pool = true;
}

Result<Pin> PinTable::remove(PinId id) noexcept {
  const std::uint64_t number = id.value & 0xffffffff;
  if (number == 0 || number > slot_count_) return Error::kNotFound;
  Slot& slot = slots_[number - 1];
  if (slot.pin == nullptr || slot.serial != id.value >> 32) return Error::kNotFound;
  Pin* const pin = slot.pin;
  if (!pin->whole_pool) tree_.erase(*pin);
  const Pin was = *pin;
  slot.pin = nullptr;
  slot.next_free = first_free_;
  first_free_ = static_cast<std::uint32_t>(number);
  books_.release(BookKind::kPlain, pin, sizeof(Pin));
  --count_;
  return was;
}

void PinTable::remove_in(Extent range) noexcept {
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    const Slot& slot = slots_[i];
    if (slot.pin != nullptr && slot.pin->extent.overlaps(range)) (void)remove(id_of(*slot.pin));
  }
}

}  // namespace exclave
