// A CUDA backend with no GPU behind it, for a CPU build of torch: a device guard that keeps track of
// the current device and stream, and hooks whose page-locked memory is ordinary memory with a list.
// With it torch runs its own code for pin_memory, indexing, streams and autograd.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

namespace {

constexpr c10::DeviceIndex kDevices = 2;
thread_local c10::DeviceIndex device_now = 0;
thread_local c10::StreamId stream_now[kDevices] = {0, 0};
std::atomic<c10::StreamId> streams_made{0};
std::atomic<long> events_waited_for{0};
std::atomic<long> synchronisations{0};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = c10::DeviceType::CUDA;
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override { return static_type; }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Device getDevice() const override { return {static_type, device_now}; }
  void setDevice(c10::Device d) const override { uncheckedSetDevice(d); }
  void uncheckedSetDevice(c10::Device d) const noexcept override {
    if (d.index() >= 0) device_now = d.index();
  }
  c10::Device exchangeDevice(c10::Device d) const override {
    const auto before = getDevice();
    uncheckedSetDevice(d);
    return before;
  }
  static c10::Stream stream(c10::Device d, c10::StreamId id) {
    const c10::Device owner(static_type, d.index() < 0 ? device_now : d.index());
    return c10::Stream(c10::Stream::UNSAFE, owner, id);
  }
  c10::Stream getStream(c10::Device d) const noexcept override {
    return stream(d, stream_now[d.index() < 0 ? device_now : d.index()]);
  }
  c10::Stream getDefaultStream(c10::Device d) const override { return stream(d, 0); }
  c10::Stream getNewStream(c10::Device d, int) const override { return stream(d, ++streams_made); }
  c10::Stream exchangeStream(c10::Stream s) const noexcept override {
    const auto before = getStream(s.device());
    stream_now[s.device_index()] = s.id();
    return before;
  }
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    static char recorded;
    *event = &recorded;
  }
  void block(void* event, const c10::Stream&) const override { if (event) ++events_waited_for; }
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { ++synchronisations; }
  void synchronizeEvent(void*) const override { ++synchronisations; }
  void synchronizeDevice(c10::DeviceIndex) const override { ++synchronisations; }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

std::mutex lock;
std::map<const char*, size_t> pinned;

void release(void* memory) {
  {
    const std::lock_guard<std::mutex> held(lock);
    pinned.erase(static_cast<const char*>(memory));
  }
  std::free(memory);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* memory = nullptr;
    if (size && posix_memalign(&memory, 64, size)) throw std::bad_alloc();
    if (memory) {
      const std::lock_guard<std::mutex> held(lock);
      pinned[static_cast<const char*>(memory)] = size;
    }
    return {memory, memory, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override {
    default_copy_data(to, from, size);
  }
};
PinnedAllocator allocator;

}  // namespace

extern "C" long stand_in_events_waited_for() { return events_waited_for; }
extern "C" long stand_in_synchronisations() { return synchronisations; }

namespace at {
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return kDevices; }
  DeviceIndex getCurrentDevice() const override { return device_now; }
  DeviceIndex current_device() const override { return device_now; }
  void setCurrentDevice(DeviceIndex d) const override { device_now = d; }
  DeviceIndex exchangeDevice(DeviceIndex d) const override { return std::exchange(device_now, d); }
  DeviceIndex maybeExchangeDevice(DeviceIndex d) const override { return exchangeDevice(d); }
  Allocator* getPinnedMemoryAllocator() const override { return &allocator; }
  bool isPinnedPtr(const void* place) const override {
    const std::lock_guard<std::mutex> held(lock);
    const auto* address = static_cast<const char*>(place);
    auto next = pinned.upper_bound(address);
    if (next == pinned.begin()) return false;
    --next;
    return address < next->first + next->second;
  }
};
REGISTER_CUDA_HOOKS(CUDAHooks);
}  // namespace at
