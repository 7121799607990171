// The threads of a model. A run's own thread does its work; helpers join in wherever a run has work that is open to them.
//
// A run hands out a phase at a time (`share`): items by number, to whoever asks next. It waits only for helpers that have entered the
// phase, never for one that sleeps or that the system has not given a core. All runs together use at most `threads` threads: helper i works
// only while i + running callers < threads, and a caller beyond them waits for its turn.
#pragma once

#include <stdint.h>

#include "system.h"

namespace cls {

// `worker` is 0 for the caller and up to threads - 1 for helpers: no two that are inside one phase have the same.
using Work = void (*)(void *context, int64_t item, int worker);

struct Team;

// A run's place in the team. `state` and `next` have a cache line each.
struct Crew {
    alignas(64) int32_t state;  // helpers inside, with the flags of team.cpp
    int32_t used;               // under the team's lock
    Work work;
    void *context;
    int64_t count;
    Team *team;
    Condition finished;
    alignas(64) int64_t next;
};

struct Helper {
    Team *team;
    int index;
    int32_t asleep;
    Condition wake;
    Thread thread;
};

struct Team {
    int threads;
    int started;  // helpers that have a thread
    int64_t process;
    Crew *crews;  // [threads]
    Helper *helpers;  // [threads - 1]
    void *allocation;
    Lock lock;
    Condition turn;  // a caller's
    int32_t callers;
    int32_t closing;
};

// False where a thread cannot be started or memory is short (`short_of_memory`); the team then holds nothing.
bool open_team(Team &team, int threads, bool &short_of_memory);
// No caller may be inside. In a child that was forked the threads do not exist: only memory is freed there.
void close_team(Team &team);

// A run begins and ends. `enter` waits while `threads` runs are inside.
Crew &enter(Team &team);
void leave(Crew &crew);

// Threads that may work for this run now, its own among them.
int workers(const Crew &crew);
// The run's number: no two runs that are inside have the same.
int number_of(const Crew &crew);

// Calls work(context, 0 .. count - 1, worker), each once, and returns when all are done.
void share(Crew &crew, int64_t count, Work work, void *context);

}  // namespace cls
