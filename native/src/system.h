// Locks, sleeping and threads of the operating system, and nothing else of it.
#pragma once

#include <stdint.h>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#endif

namespace cls {

#ifdef _WIN32

struct Lock {
    SRWLOCK handle;
};
struct Condition {
    CONDITION_VARIABLE handle;
};
struct Thread {
    HANDLE handle;
    void (*body)(void *);
    void *argument;
};

inline void initialize(Lock &lock) { InitializeSRWLock(&lock.handle); }
inline void destroy(Lock &) {}
inline void acquire(Lock &lock) { AcquireSRWLockExclusive(&lock.handle); }
inline void release(Lock &lock) { ReleaseSRWLockExclusive(&lock.handle); }
inline void initialize(Condition &condition) { InitializeConditionVariable(&condition.handle); }
inline void destroy(Condition &) {}
inline void wait(Condition &condition, Lock &lock) { SleepConditionVariableSRW(&condition.handle, &lock.handle, INFINITE, 0); }
inline void wake_one(Condition &condition) { WakeConditionVariable(&condition.handle); }
inline void wake_all(Condition &condition) { WakeAllConditionVariable(&condition.handle); }

inline DWORD WINAPI thread_main(void *argument) {
    Thread *thread = static_cast<Thread *>(argument);
    thread->body(thread->argument);
    return 0;
}

// `thread` stays where it is until it is joined.
inline bool start(Thread &thread, void (*body)(void *), void *argument) {
    thread.body = body;
    thread.argument = argument;
    thread.handle = CreateThread(nullptr, 0, thread_main, &thread, 0, nullptr);
    return thread.handle != nullptr;
}

inline void join(Thread &thread) {
    WaitForSingleObject(thread.handle, INFINITE);
    CloseHandle(thread.handle);
}

inline int64_t process_id() { return static_cast<int64_t>(GetCurrentProcessId()); }

inline int64_t nanoseconds() {
    LARGE_INTEGER ticks, frequency;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&frequency);
    return static_cast<int64_t>(static_cast<double>(ticks.QuadPart) * 1e9 / static_cast<double>(frequency.QuadPart));
}

#else

struct Lock {
    pthread_mutex_t handle;
};
struct Condition {
    pthread_cond_t handle;
};
struct Thread {
    pthread_t handle;
    void (*body)(void *);
    void *argument;
};

inline void initialize(Lock &lock) { pthread_mutex_init(&lock.handle, nullptr); }
inline void destroy(Lock &lock) { pthread_mutex_destroy(&lock.handle); }
inline void acquire(Lock &lock) { pthread_mutex_lock(&lock.handle); }
inline void release(Lock &lock) { pthread_mutex_unlock(&lock.handle); }
inline void initialize(Condition &condition) { pthread_cond_init(&condition.handle, nullptr); }
inline void destroy(Condition &condition) { pthread_cond_destroy(&condition.handle); }
inline void wait(Condition &condition, Lock &lock) { pthread_cond_wait(&condition.handle, &lock.handle); }
inline void wake_one(Condition &condition) { pthread_cond_signal(&condition.handle); }
inline void wake_all(Condition &condition) { pthread_cond_broadcast(&condition.handle); }

inline void *thread_main(void *argument) {
    Thread *thread = static_cast<Thread *>(argument);
    thread->body(thread->argument);
    return nullptr;
}

// `thread` stays where it is until it is joined. Signals go to the process's other threads.
inline bool start(Thread &thread, void (*body)(void *), void *argument) {
    thread.body = body;
    thread.argument = argument;
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    const bool started = pthread_create(&thread.handle, nullptr, thread_main, &thread) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
}

inline void join(Thread &thread) { pthread_join(thread.handle, nullptr); }

inline int64_t process_id() { return static_cast<int64_t>(getpid()); }

inline int64_t nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

#endif

// Inside a loop that waits: leaves the core's other thread more of it.
inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// Waits for a short time, as long as `waiting(argument)`; tells whether it stopped to be so.
template <class Waiting>
inline bool spin_while(Waiting waiting, int64_t limit_ns) {
    const int64_t start = nanoseconds();
    do {
        for (int i = 0; i < 16; ++i) {
            if (!waiting()) return true;
            pause_briefly();
        }
    } while (nanoseconds() - start < limit_ns);
    return false;
}

}  // namespace cls
