/* Thread slots of the process port: claimed, given back, and taken over from a thread that died without giving its slot back.
 *
 * Code: claim_lowest_slot, claim_slot_of_dead_thread, give_back_slot, exclave_process_thread_ends, assign_thread_slot_slow
 * (ports/process/thread_slot.cpp).
 *
 * One slot and three threads, one after another or beside each other. A thread
 * asks for a slot, and then ends: it is told so by the destructor of the key and gives the slot back, and may ask again in a later
 * destructor, or the kernel does not tell it any more. One thread has signal handlers that ask, too.
 *
 * Claims: no two live threads have one slot; when all have ended, the slot is free, or its owner is known, who is dead.
 *
 * KNOWN_id_given_out_again: the kernel gives the id of a thread that has ended to a new one. Between the look at the owner and the
 * exchange that takes the slot over, the owner may end and give the slot back, and a new thread with its id may claim it: then the exchange
 * succeeds, and two live threads have the slot.
 *
 * Taken for granted: giving a slot back and taking it over release and acquire. claim_lowest_slot is one step: its exchange fails
 * unless it is made on the word that was looked at.
 */
#define THREADS 3
#define NONE 0

bool slot_used;  /* g_slots_in_use */
byte owner;      /* g_owners: the thread id */
bool alive[4];   /* by thread id */
bool given[4];   /* a thread had it, or has */
byte ended;

/* Ghost: live threads whose thread_slot_word names the slot. */
byte holders;

inline set_word() {
  word = 1;
  holders++;
  assert(holders == 1)
}

inline clear_word() {
  word = 0;
  holders--
}

inline give_back_slot() {
#ifdef PLANT_bit_first
  slot_used = false;
  owner = NONE
#else
  owner = NONE;
  slot_used = false
#endif
}

/* Into claimed. */
inline claim_lowest_slot() {
  atomic {
    if
    :: !slot_used -> slot_used = true; claimed = true
    :: else -> claimed = false
    fi
  }
}

/* Into claimed. */
inline claim_slot_of_dead_thread() {
  seen = owner;
  if
  :: seen != NONE && !alive[seen] -> /* tgkill: ESRCH */
#ifdef PLANT_owner_stored
    owner = NONE;
    claimed = true
#else
    atomic {
      if
      :: owner == seen -> owner = NONE; claimed = true
      :: else
      fi
    }
#endif
  :: else
  fi;
  seen = NONE
}

inline set_owner() {
  owner = tid
}

/* The whole of assign_thread_slot_slow, in a handler. */
inline interrupt() {
  if
  :: handlers > 0 && word == 0 ->
    handlers--;
    claim_lowest_slot();
    if
    :: !claimed -> claim_slot_of_dead_thread()
    :: else
    fi;
    if
    :: claimed -> atomic { set_word(); claimed = false } set_owner()
    :: else
    fi
  :: true
  fi
}

inline assign_thread_slot_slow() {
  claim_lowest_slot();
  if
  :: !claimed -> claim_slot_of_dead_thread()
  :: else
  fi;
  if
  :: claimed ->
    claimed = false;
    interrupt();
    atomic { /* one exchange */
      if
      :: word == 0 -> set_word(); first = true
      :: else
      fi
    }
    if
    :: first ->
      interrupt();
#ifndef PLANT_owner_not_stored
      set_owner();
#endif
      if
      :: true
      :: /* pthread_setspecific fails */
        clear_word();
        interrupt();
        give_back_slot()
      fi
    :: else -> give_back_slot()
    fi;
    first = false
  :: else
  fi
}

inline exclave_process_thread_ends() {
  clear_word();
  interrupt();
  give_back_slot()
}

proctype Thread(byte rounds; byte handlers) {
  byte tid, word, seen;
  bool claimed, first;
  atomic { /* the kernel gives any id that no live thread has */
    if
    :: !given[1] -> tid = 1
    :: !given[2] -> tid = 2
    :: !given[3] -> tid = 3
    fi;
    alive[tid] = true;
    given[tid] = true
  }
  do
  :: rounds > 0 ->
    rounds--;
    if
    :: word == 0 -> assign_thread_slot_slow()
    :: else
    fi;
    if
    :: word != 0 -> exclave_process_thread_ends()
    :: true -> break
    fi
  :: else -> break
  od;
  atomic {
    if
    :: word != 0 -> clear_word()
    :: else
    fi;
    alive[tid] = false;
#ifdef KNOWN_id_given_out_again
    given[tid] = false;
#endif
    rounds = 0;
    ended++
  }
}

proctype Audit() {
  ended == THREADS;
  assert(!slot_used || owner != NONE)
}

init {
  atomic {
    run Thread(1, 0);
    run Thread(1, 0);
    run Thread(2, 1);
    run Audit()
  }
}
