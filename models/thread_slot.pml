/* A thread slot, the heap that stands in it, signal handlers, and the next thread in the slot, told of the last one's end or not.
 *
 * Code: assign_thread_slot_slow, claim_lowest_slot, give_back_slot, exclave_process_thread_ends (ports/process/thread_slot.cpp);
 * AllocatorCore::enter, leave (src/heap/core.hpp); Gate, take_heap_slow, on_thread_exit, retire_heap_slow (src/heap/core.cpp).
 *
 * Two slots and three threads that make a call each; one of them has a signal handler that calls, too, at any step. A thread's
 * end is told, or it is not: then the slot is free and all that it left stands as it was, also in the middle of a call. (So a slot
 * whose owner was reset without notice is a slot with old state.) The tables are plain words: only the slot's thread touches them.
 *
 * Claims: a heap is used by one call at a time, and never by a nested one; it is some slot's or idle, not both, and not two slots';
 * every heap can be found again, but for one whose thread was told to have ended in the middle of a call; a slot that no
 * thread ends up with is free again.
 *
 * Contract of the port: a slot is unique among live threads. PLANT_slot_for_two shows what follows when it is not: the check
 * by busy_ is no lock.
 *
 * Folded: claim_lowest_slot and give_back_slot are one step each, for slot_owner has theirs; taking a heap from the list or making one is
 * one step, under its lock; retire_heap_slow is one use of the heap and the list (hand_over has the rest).
 *
 * Taken for granted: giving a slot back releases and claiming it acquires, so the next thread sees what the last one left.
 */
#define SLOTS 2
#define THREADS 3
#define HEAPS 4
#define NONE 0
#define BUSY 255

bool slot_used[SLOTS];
byte table[SLOTS]; /* heaps_: NONE, BUSY or a heap */
byte home[SLOTS];  /* homes_ */
bool idle[5];      /* heaps 1 to 4 */
byte made;
bool lists;
byte ended;

bool used[5];
bool left[5]; /* its thread ended in a call and that was told */

#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false

/* claim_lowest_slot: the slot into mine; SLOTS: there is none. word: thread_slot_word. For the thread and, with its own mine, the handler. */
inline claim(mine) {
  atomic {
    if
#ifdef PLANT_slot_for_two
    :: true -> mine = 0
#else
    :: !slot_used[0] -> mine = 0
#endif
    :: !slot_used[1] -> mine = 1
#ifndef PLANT_slot_for_two
    :: slot_used[0] && slot_used[1] -> mine = SLOTS
#endif
    fi;
    if
    :: mine < SLOTS -> slot_used[mine] = true
    :: else
    fi
  }
}

/* assign_thread_slot_slow: one exchange, and give_back_slot when it fails. */
inline set_word(mine) {
#ifdef PLANT_word_stored
  word = mine + 1
#else
  atomic {
    if
    :: word == 0 -> word = mine + 1
    :: else -> slot_used[mine] = false; mine = word - 1
    fi
  }
#endif
}

/* take_heap_slow */
inline take_heap(slot, heap) {
  if
#ifndef PLANT_home_forgotten
  :: home[slot] != NONE -> heap = home[slot]
  :: home[slot] == NONE ->
#else
  :: true ->
#endif
    lock(lists);
    atomic {
      if
      :: idle[1] -> heap = 1
      :: !idle[1] && idle[2] -> heap = 2
      :: !idle[1] && !idle[2] && idle[3] -> heap = 3
      :: !idle[1] && !idle[2] && !idle[3] -> made++; heap = made; assert(made <= HEAPS)
      fi;
      idle[heap] = false
    }
    home[slot] = heap;
    unlock(lists)
  fi
}

inline use(heap) {
  atomic { assert(!used[heap] && !idle[heap]); used[heap] = true }
}

/* A signal may come here. */
inline interrupt() {
  if
  :: !interrupted ->
    interrupted = true;
    inner_slot = word - 1;
    if
    :: word == 0 ->
      claim(inner_slot);
      if
      :: inner_slot < SLOTS -> set_word(inner_slot)
      :: else
      fi
    :: else
    fi;
    if
    :: inner_slot < SLOTS ->
      inner = table[inner_slot]; /* enter */
      table[inner_slot] = BUSY;
      if
      :: inner == BUSY /* told: kReentered */
      :: inner != BUSY ->
        if
        :: inner == NONE -> take_heap(inner_slot, inner)
        :: else
        fi;
        use(inner);
        used[inner] = false;
        table[inner_slot] = inner /* leave */
      fi
    :: else
    fi;
    d_step { inner = 0; inner_slot = 0 }
  :: true
  fi
}

proctype Thread(bool interrupted) {
  byte word, slot, heap, inner, inner_slot;
  bool in_call;
  claim(slot);
  if
  :: slot == SLOTS -> goto out
  :: else
  fi;
  interrupt();
  set_word(slot);
  interrupt();
  heap = table[slot]; /* Gate: enter */
  interrupt();
  table[slot] = BUSY;
  interrupt();
  if
  :: heap == BUSY -> /* the last thread never left its call: told kReentered */
    in_call = true
  :: heap != BUSY ->
    if
    :: heap == NONE -> take_heap(slot, heap)
    :: else
    fi;
    interrupt();
    use(heap);
    interrupt();
    used[heap] = false;
    if
    :: in_call = true /* ends here */
    :: table[slot] = heap /* ~Gate: leave */
    fi
  fi;
  interrupt();
  if
  :: /* exclave_process_thread_ends: on_thread_exit */
#ifdef PLANT_slot_back_first
    slot_used[slot] = false;
#endif
    heap = table[slot]; /* enter */
    interrupt();
    table[slot] = BUSY;
    if
    :: heap != BUSY && home[slot] != NONE -> /* retire_heap_slow */
      heap = home[slot];
      use(heap);
      interrupt();
      used[heap] = false;
      lock(lists);
      atomic { assert(!idle[heap]); idle[heap] = true }
      unlock(lists)
    :: heap != BUSY && home[slot] == NONE
    :: heap == BUSY ->
      if
      :: home[slot] != NONE -> left[home[slot]] = true
      :: else
      fi
    fi;
    home[slot] = NONE;
    interrupt();
    table[slot] = NONE; /* leave */
    interrupt();
    word = 0;
    interrupt();
    slot_used[slot] = false; /* give_back_slot */
    if
    :: word != 0 -> /* a handler got a slot since; nobody is told of that one, or the destructor runs once more, as above */
      slot_used[word - 1] = false
    :: else
    fi
  :: /* nobody is told */
    slot_used[slot] = false
  fi;
out:
  ended++
}

#define times(h) ((home[0] == h) + (home[1] == h) + idle[h] + left[h])

proctype Audit() {
  byte h = 1;
  ended == THREADS;
  assert(!slot_used[0] && !slot_used[1]);
  do
  :: h <= made -> assert(times(h) == 1); h++
  :: else -> break
  od
}

init {
  atomic {
    run Thread(false);
    run Thread(true);
    run Thread(true);
    run Audit()
  }
}
