#include "kernels/cpu/screen_cache.h"

#include <pthread.h>

#include <charconv>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <list>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>

namespace vqgan_fast {
namespace {

constexpr int64_t kDefaultMegabytes = 256;
// Keys that were offered once are remembered for so many others: more codebooks than a model has
// heads and levels, and few enough to cost nothing.
constexpr size_t kMostSighted = 4096;

using Screen = std::shared_ptr<const CodeScreen>;

struct KeyHash {
  // The content's hash is evenly spread already; one codebook is seldom kept in several forms.
  size_t operator()(const ScreenKey& key) const { return key.hash.low; }
};

class Cache {
 public:
  Screen find(const ScreenKey& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = kept_.find(key);
    if (found == kept_.end()) return nullptr;
    by_use_.splice(by_use_.begin(), by_use_, found->second);
    return found->second->screen;
  }

  // Whether this key was sighted before; now it is.
  bool sight(const ScreenKey& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = sighted_.find(key);
    if (found != sighted_.end()) {
      by_sight_.splice(by_sight_.begin(), by_sight_, found->second);
      return true;
    }
    std::list<ScreenKey> added{key};
    sighted_.emplace(key, added.begin());
    by_sight_.splice(by_sight_.begin(), added);
    if (by_sight_.size() > kMostSighted) {
      sighted_.erase(by_sight_.back());
      by_sight_.pop_back();
    }
    return false;
  }

  void keep(const ScreenKey& key, const Screen& screen, int64_t limit) {
    std::list<Entry> added{{key, screen, static_cast<int64_t>(screen->bytes())}};
    std::list<Entry> evicted;  // freed behind the lock, for which others may wait
    const std::lock_guard<std::mutex> lock(mutex_);
    if (kept_.emplace(key, added.begin()).second) {
      bytes_ += added.front().bytes;
      by_use_.splice(by_use_.begin(), added);
    }
    while (bytes_ > limit) {
      bytes_ -= by_use_.back().bytes;
      kept_.erase(by_use_.back().key);
      evicted.splice(evicted.begin(), by_use_, std::prev(by_use_.end()));
    }
  }

  int64_t bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return bytes_;
  }

  void clear() {
    std::list<Entry> freed;
    const std::lock_guard<std::mutex> lock(mutex_);
    freed.swap(by_use_);
    kept_.clear();
    bytes_ = 0;
    by_sight_.clear();
    sighted_.clear();
  }

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct Entry {
    ScreenKey key;
    Screen screen;
    int64_t bytes;
  };
  template <typename T>
  using Index = std::unordered_map<ScreenKey, typename std::list<T>::iterator, KeyHash>;

  std::mutex mutex_;
  std::list<Entry> by_use_;  // used last first
  Index<Entry> kept_;
  int64_t bytes_ = 0;
  std::list<ScreenKey> by_sight_;  // sighted last first
  Index<ScreenKey> sighted_;
};

// Never destroyed: threads may outlive static objects. A child of fork finds the lock free and the
// lists whole, whatever the parent's other threads were doing.
Cache& cache() {
  static Cache* const instance = new Cache;
  static const int registered = pthread_atfork([] { instance->lock(); }, [] { instance->unlock(); },
                                               [] { instance->unlock(); });
  static_cast<void>(registered);
  return *instance;
}

}  // namespace

int64_t screen_cache_limit() {
  constexpr int64_t kMegabyte = 1 << 20;
  const char* set = std::getenv("VQGAN_FAST_CACHE_MB");
  if (set == nullptr || *set == '\0') return kDefaultMegabytes * kMegabyte;
  const std::string_view text(set);
  int64_t megabytes = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), megabytes);
  if (error != std::errc() || end != text.data() + text.size() || megabytes < 0 ||
      megabytes > std::numeric_limits<int64_t>::max() / kMegabyte) {
    throw std::runtime_error(
        "VQGAN_FAST_CACHE_MB must be a whole number of megabytes, 0 or more, "
        "got " +
        std::string(text));
  }
  return megabytes * kMegabyte;
}

std::shared_ptr<const CodeScreen> find_screen(const ScreenKey& key) {
  return screen_cache_limit() > 0 ? cache().find(key) : nullptr;
}

void offer_screen(const ScreenKey& key, const std::shared_ptr<const CodeScreen>& screen,
                  const std::function<bool()>& still_there) {
  const int64_t limit = screen_cache_limit();
  if (limit == 0) {
    if (screen_cache_bytes() > 0) clear_screen_cache();
    return;
  }
  if (screen == nullptr || static_cast<int64_t>(screen->bytes()) > limit) return;
  if (cache().sight(key) && still_there()) cache().keep(key, screen, limit);
}

int64_t screen_cache_bytes() { return cache().bytes(); }

void clear_screen_cache() { cache().clear(); }

}  // namespace vqgan_fast
