#include "kernels/cpu/screen_cache.h"

#include <pthread.h>

#include <charconv>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <list>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>

namespace vqgan_fast {
namespace {

constexpr int64_t kDefaultMegabytes = 256;
// A codebook is remembered for so many others: more than a model has heads and levels, and few
// enough to cost nothing.
constexpr size_t kMostMet = 4096;

using Screen = std::shared_ptr<const CodeScreen>;

int64_t bytes_of(const Screen& screen) {
  // That there is none takes a place in the lists.
  return screen ? static_cast<int64_t>(screen->bytes()) : static_cast<int64_t>(sizeof(ScreenKey));
}

// The content's hash is evenly spread already; one codebook is seldom kept in several forms.
struct KeyHash {
  size_t operator()(const CodebookKey& key) const { return key.hash.low; }
  size_t operator()(const ScreenKey& key) const { return key.codebook.hash.low; }
};

class Cache {
 public:
  std::optional<Screen> find(const ScreenKey& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = kept_.find(key);
    if (found == kept_.end()) return std::nullopt;
    by_use_.splice(by_use_.begin(), by_use_, found->second);
    return found->second->screen;
  }

  bool meet(const CodebookKey& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = met_.find(key);
    if (found != met_.end()) {
      by_meeting_.splice(by_meeting_.begin(), by_meeting_, found->second);
      return true;
    }
    std::list<CodebookKey> added{key};
    met_.emplace(key, added.begin());
    by_meeting_.splice(by_meeting_.begin(), added);
    if (by_meeting_.size() > kMostMet) {
      met_.erase(by_meeting_.back());
      by_meeting_.pop_back();
    }
    return false;
  }

  void keep(const ScreenKey& key, const Screen& screen, int64_t limit) {
    std::list<Entry> added{{key, screen, bytes_of(screen)}};
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

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct Entry {
    ScreenKey key;
    Screen screen;
    int64_t bytes;
  };
  template <typename Key, typename Listed>
  using Index = std::unordered_map<Key, typename std::list<Listed>::iterator, KeyHash>;

  std::mutex mutex_;
  std::list<Entry> by_use_;  // used last first
  Index<ScreenKey, Entry> kept_;
  int64_t bytes_ = 0;
  std::list<CodebookKey> by_meeting_;  // met last first
  Index<CodebookKey, CodebookKey> met_;
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

bool meet_codebook(const CodebookKey& key) { return cache().meet(key); }

std::optional<std::shared_ptr<const CodeScreen>> find_screen(const ScreenKey& key) {
  return cache().find(key);
}

void keep_screen(const ScreenKey& key, const std::shared_ptr<const CodeScreen>& screen) {
  const int64_t limit = screen_cache_limit();
  if (bytes_of(screen) <= limit) cache().keep(key, screen, limit);
}

}  // namespace vqgan_fast
