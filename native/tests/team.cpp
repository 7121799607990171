// The threads of a model: helpers do help, also after they slept; each item is done once and by one worker at a time; all callers together
// use no more threads than there are.
#include "../src/team.h"

#include <stdio.h>
#include <stdlib.h>

namespace {

int failures = 0;

void expect(bool holds, const char *what, int threads) {
    if (holds) return;
    fprintf(stderr, "%d threads: %s\n", threads, what);
    __atomic_fetch_add(&failures, 1, __ATOMIC_SEQ_CST);
}

void sleep_for(int64_t milliseconds) {
    const int64_t start = cls::nanoseconds();
    while (cls::nanoseconds() - start < milliseconds * 1000000) usleep(200);
}

void open(cls::Team &team, int threads) {
    bool short_of_memory = false;
    if (!cls::open_team(team, threads, short_of_memory)) exit(2);
}

// Items that end only when `together` of them run at once.
struct Meeting {
    int together;
    int begun;
    bool met;
};

void meet(void *context, int64_t, int) {
    Meeting &meeting = *static_cast<Meeting *>(context);
    __atomic_fetch_add(&meeting.begun, 1, __ATOMIC_SEQ_CST);
    const int64_t start = cls::nanoseconds();
    while (__atomic_load_n(&meeting.begun, __ATOMIC_SEQ_CST) < meeting.together) {
        if (cls::nanoseconds() - start > 30000000000) return;
        usleep(100);
    }
    __atomic_store_n(&meeting.met, true, __ATOMIC_SEQ_CST);
}

void check_helpers(int threads) {
    cls::Team team;
    open(team, threads);
    cls::Crew &crew = cls::enter(team);
    for (int time = 0; time < 5; ++time) {
        Meeting meeting = {threads, 0, false};
        cls::share(crew, threads, meet, &meeting);
        expect(meeting.met && meeting.begun == threads, time < 3 ? "no helper comes" : "no helper comes after a pause", threads);
        if (time >= 2) sleep_for(5);
    }
    cls::leave(crew);
    cls::close_team(team);
}

constexpr int kItems = 1000, kMostThreads = 8;

struct Tally {
    int threads;
    int done[kItems];
    int busy[kMostThreads];
    bool wrong;
};

void tally(void *context, int64_t item, int worker) {
    Tally &tally = *static_cast<Tally *>(context);
    const bool known = worker >= 0 && worker < tally.threads;
    if (!known || __atomic_exchange_n(&tally.busy[worker], 1, __ATOMIC_SEQ_CST)) {
        return __atomic_store_n(&tally.wrong, true, __ATOMIC_SEQ_CST);
    }
    ++tally.done[item];
    __atomic_store_n(&tally.busy[worker], 0, __ATOMIC_SEQ_CST);
}

void check_items(int threads) {
    cls::Team team;
    open(team, threads);
    cls::Crew &crew = cls::enter(team);
    for (int64_t count = 0; count <= kItems; count += count < 5 ? 1 : 83) {
        Tally result = {threads, {}, {}, false};
        cls::share(crew, count, tally, &result);
        for (int item = 0; item < kItems; ++item) expect(result.done[item] == (item < count), "an item is done not once", threads);
        expect(!result.wrong, "two items at once have one worker", threads);
    }
    cls::leave(crew);
    cls::close_team(team);
}

// How many items run at once, of all callers.
struct Crowd {
    cls::Team *team;
    int items, running, most, counted;
};

void run_item(void *context, int64_t, int) {
    Crowd &crowd = *static_cast<Crowd *>(context);
    const int running = __atomic_add_fetch(&crowd.running, 1, __ATOMIC_SEQ_CST);
    int most = __atomic_load_n(&crowd.most, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&crowd.counted, __ATOMIC_SEQ_CST) && running > most &&
           !__atomic_compare_exchange_n(&crowd.most, &most, running, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    usleep(300);
    __atomic_sub_fetch(&crowd.running, 1, __ATOMIC_SEQ_CST);
}

void call(void *context) {
    Crowd &crowd = *static_cast<Crowd *>(context);
    cls::Crew &crew = cls::enter(*crowd.team);
    cls::share(crew, crowd.items, run_item, &crowd);
    cls::leave(crew);
}

// Two callers that are inside, with helpers between them.
void check_two_callers(int threads) {
    cls::Team team;
    open(team, threads);
    Crowd crowd = {&team, 1500, 0, 0, 0};
    cls::Thread other;
    if (!cls::start(other, call, &crowd)) exit(2);
    sleep_for(10);
    cls::Crew &crew = cls::enter(team);
    sleep_for(40);  // a helper may end the item that it has
    __atomic_store_n(&crowd.counted, 1, __ATOMIC_SEQ_CST);
    cls::share(crew, 100, run_item, &crowd);
    __atomic_store_n(&crowd.counted, 0, __ATOMIC_SEQ_CST);
    cls::leave(crew);
    cls::join(other);
    expect(crowd.most <= threads, "two callers use more threads than there are", threads);
    cls::close_team(team);
}

void check_waiting_callers(int threads) {
    cls::Team team;
    open(team, threads);
    Crowd crowd = {&team, 100, 0, 0, threads == 1};  // with helpers a caller that enters finds them at work
    cls::Thread callers[6];
    for (cls::Thread &caller : callers) {
        if (!cls::start(caller, call, &crowd)) exit(2);
    }
    for (cls::Thread &caller : callers) cls::join(caller);
    expect(crowd.running == 0 && crowd.most <= threads, "a caller does not wait for its turn", threads);
    cls::close_team(team);
}

}  // namespace

int main() {
    for (int threads = 1; threads <= 4; ++threads) {
        check_helpers(threads);
        check_items(threads);
        if (threads > 1) check_two_callers(threads);
        check_waiting_callers(threads);
    }
    check_items(kMostThreads);
    printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
