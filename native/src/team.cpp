#include "team.h"

#include <stdlib.h>
#include <string.h>

#include "float_mode.h"
#include "support.h"

namespace cls {
namespace {

constexpr int32_t kOpen = 1 << 30;     // the phase has items
constexpr int32_t kWaiting = 1 << 29;  // the caller sleeps until nobody is inside
constexpr int32_t kInside = kWaiting - 1;
constexpr int64_t kSpin_ns = 50000;

template <class T>
T read(const T &value) {
    return __atomic_load_n(&value, __ATOMIC_SEQ_CST);
}

template <class T>
void write(T &value, T now) {
    __atomic_store_n(&value, now, __ATOMIC_SEQ_CST);
}

bool may_work(const Helper &helper) { return helper.index + read(helper.team->callers) < helper.team->threads; }

bool has_items(const Crew &crew) {
    return (read(crew.state) & kOpen) != 0 && read(crew.next) < __atomic_load_n(&crew.count, __ATOMIC_RELAXED);
}

// The next item of the phase; false where all are taken.
bool do_item(Crew &crew, int worker) {
    const int64_t item = __atomic_fetch_add(&crew.next, 1, __ATOMIC_RELAXED);
    if (item >= __atomic_load_n(&crew.count, __ATOMIC_RELAXED)) return false;
    crew.work(crew.context, item, worker);
    return true;
}

// The open phase with the fewest helpers, or null.
Crew *choose(Team &team) {
    Crew *best = nullptr;
    int32_t fewest = kInside;
    for (int i = 0; i < team.threads; ++i) {
        Crew &crew = team.crews[i];
        if (!has_items(crew)) continue;
        const int32_t inside = read(crew.state) & kInside;
        if (inside < fewest) {
            fewest = inside;
            best = &crew;
        }
    }
    return best;
}

// Joins the phase that is open, if it still is.
bool join_phase(Crew &crew) {
    int32_t state = read(crew.state);
    while ((state & kOpen) != 0) {
        if (__atomic_compare_exchange_n(&crew.state, &state, state + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return true;
    }
    return false;
}

void leave_phase(Crew &crew) {
    const int32_t state = __atomic_sub_fetch(&crew.state, 1, __ATOMIC_SEQ_CST);
    if (state != kWaiting) return;
    acquire(crew.team->lock);
    wake_all(crew.finished);
    release(crew.team->lock);
}

bool help_once(Helper &helper) {
    if (!may_work(helper)) return false;
    Crew *crew = choose(*helper.team);
    if (!crew || !join_phase(*crew)) return false;
    while (do_item(*crew, helper.index + 1) && may_work(helper)) continue;
    leave_phase(*crew);
    return true;
}

void sleep(Helper &helper) {
    Team &team = *helper.team;
    acquire(team.lock);
    write(helper.asleep, 1);
    // Whoever opens a phase after this look sees `asleep`.
    if (!read(team.closing) && !(may_work(helper) && choose(team))) wait(helper.wake, team.lock);
    write(helper.asleep, 0);
    release(team.lock);
}

void helper_main(void *argument) {
    Helper &helper = *static_cast<Helper *>(argument);
    Team &team = *helper.team;
    set_float_mode(kFloatMode);
    while (!read(team.closing)) {
        if (help_once(helper)) continue;
        auto nothing = [&] { return !read(team.closing) && may_work(helper) && !choose(team); };
        if (!may_work(helper) || !spin_while(nothing, kSpin_ns)) sleep(helper);
    }
}

// Sees to it that the first `most` helpers that may work are awake.
void wake_helpers(Team &team, int64_t most) {
    const int allowed = least(team.threads - read(team.callers), team.started);
    for (int i = 0; i < least<int64_t>(allowed, most); ++i) {
        if (!read(team.helpers[i].asleep)) continue;
        acquire(team.lock);
        write(team.helpers[i].asleep, 0);
        wake_one(team.helpers[i].wake);
        release(team.lock);
    }
}

void wait_for_helpers(Crew &crew) {
    if (spin_while([&] { return (read(crew.state) & kInside) != 0; }, kSpin_ns)) return;
    acquire(crew.team->lock);
    __atomic_fetch_or(&crew.state, kWaiting, __ATOMIC_SEQ_CST);
    while ((read(crew.state) & kInside) != 0) wait(crew.finished, crew.team->lock);
    __atomic_fetch_and(&crew.state, ~kWaiting, __ATOMIC_SEQ_CST);
    release(crew.team->lock);
}

void free_team(Team &team) {
    for (int i = 0; i < team.threads; ++i) destroy(team.crews[i].finished);
    for (int i = 0; i < team.threads - 1; ++i) destroy(team.helpers[i].wake);
    destroy(team.turn);
    destroy(team.lock);
    free(team.allocation);
    team.allocation = nullptr;
}

}  // namespace

bool open_team(Team &team, int threads, bool &short_of_memory) {
    memset(static_cast<void *>(&team), 0, sizeof team);
    const size_t count = static_cast<size_t>(threads);
    const size_t crew_bytes = sizeof(Crew) * count, helper_bytes = sizeof(Helper) * count;
    team.allocation = calloc(1, crew_bytes + helper_bytes + alignof(Crew));
    short_of_memory = !team.allocation;
    if (short_of_memory) return false;
    const uintptr_t start_of_crews = (reinterpret_cast<uintptr_t>(team.allocation) + alignof(Crew) - 1) / alignof(Crew) * alignof(Crew);
    team.crews = reinterpret_cast<Crew *>(start_of_crews);
    team.helpers = reinterpret_cast<Helper *>(start_of_crews + crew_bytes);
    team.threads = threads;
    team.process = process_id();
    initialize(team.lock);
    initialize(team.turn);
    for (int i = 0; i < threads; ++i) {
        team.crews[i].team = &team;
        initialize(team.crews[i].finished);
    }
    for (int i = 0; i < threads - 1; ++i) {
        team.helpers[i].team = &team;
        team.helpers[i].index = i;
        initialize(team.helpers[i].wake);
    }
    for (; team.started < threads - 1; ++team.started) {
        Helper &helper = team.helpers[team.started];
        if (start(helper.thread, helper_main, &helper)) continue;
        close_team(team);
        return false;
    }
    return true;
}

void close_team(Team &team) {
    if (team.process != process_id()) {
        free(team.allocation);  // the locks may be held by threads that are not there
        team.allocation = nullptr;
        return;
    }
    acquire(team.lock);
    write(team.closing, 1);
    for (int i = 0; i < team.started; ++i) wake_one(team.helpers[i].wake);
    release(team.lock);
    for (int i = 0; i < team.started; ++i) join(team.helpers[i].thread);
    free_team(team);
}

Crew &enter(Team &team) {
    acquire(team.lock);
    while (read(team.callers) >= team.threads) wait(team.turn, team.lock);
    __atomic_fetch_add(&team.callers, 1, __ATOMIC_SEQ_CST);
    Crew *crew = team.crews;
    while (crew->used) ++crew;
    crew->used = 1;
    release(team.lock);
    return *crew;
}

void leave(Crew &crew) {
    Team &team = *crew.team;
    acquire(team.lock);
    crew.used = 0;
    __atomic_fetch_sub(&team.callers, 1, __ATOMIC_SEQ_CST);
    wake_one(team.turn);
    release(team.lock);
}

int workers(const Crew &crew) { return greatest(1, crew.team->threads - read(crew.team->callers) + 1); }

int number_of(const Crew &crew) { return static_cast<int>(&crew - crew.team->crews); }

void share(Crew &crew, int64_t count, Work work, void *context) {
    if (count <= 1 || workers(crew) == 1) {
        for (int64_t item = 0; item < count; ++item) work(context, item, 0);
        return;
    }
    crew.work = work;
    crew.context = context;
    __atomic_store_n(&crew.count, count, __ATOMIC_RELAXED);
    write(crew.next, static_cast<int64_t>(0));
    write(crew.state, kOpen);
    wake_helpers(*crew.team, count - 1);
    while (do_item(crew, 0)) continue;
    __atomic_fetch_and(&crew.state, ~kOpen, __ATOMIC_SEQ_CST);
    wait_for_helpers(crew);
}

}  // namespace cls
