/* Thread slots of the process port: claimed, given back, and taken over from a thread that died without giving its slot back.
 *
 * Code: claim_lowest_slot, claim_slot_of_dead_thread, set_owner, give_back_slot, exclave_process_thread_ends, assign_thread_slot_slow
 * (ports/process/thread_slot.cpp).
 *
 * One slot and three threads, one after another or beside each other. A thread
 * asks for a slot, and then ends: it is told so by the destructor of the key and gives the slot back, and may ask again in a later
 * destructor, or the kernel does not tell it any more. One thread has signal handlers that ask, too.
 *
 * Claims: no two live threads have one slot; when all have ended, the slot is free, or its owner is known, who is dead.
 *
 * The kernel gives the id of a thread that has ended to a new one. Between the look at the owner and the exchange that takes the slot over,
 * the owner may end and give the slot back, and a new thread with its id may claim it. So the owner's word counts its changes, and the
 * exchange compares both halves (PLANT_id_alone).
 *
 * Taken for granted: giving a slot back and taking it over release and acquire. claim_lowest_slot is one step: its exchange fails
 * unless it is made on the word that was looked at.
 */
#define THREADS 3
#define NONE 0

bool slot_used;  /* g_slots_in_use */
byte owner;      /* g_owners, low half: the thread id */
byte changes;    /* its high half */
bool alive[4];   /* by thread id */
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

/* One store: nobody else stores meanwhile. */
inline set_owner(thread) {
  atomic { owner = thread; changes++ }
}

inline give_back_slot() {
#ifdef PLANT_bit_first
  slot_used = false;
  set_owner(NONE)
#else
  set_owner(NONE);
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
  atomic { seen = owner; seen_changes = changes } /* one word */
  if
  :: seen != NONE && !alive[seen] -> /* tgkill: ESRCH */
#ifdef PLANT_owner_stored
    set_owner(NONE);
    claimed = true
#else
    atomic {
      if
#ifdef PLANT_id_alone
      :: owner == seen -> set_owner(NONE); claimed = true
#else
      :: owner == seen && changes == seen_changes -> set_owner(NONE); claimed = true
#endif
      :: else
      fi
    }
#endif
  :: else
  fi;
  seen = NONE;
  seen_changes = 0
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
    :: claimed -> atomic { set_word(); claimed = false } set_owner(tid)
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
      set_owner(tid);
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
  byte tid, word, seen, seen_changes;
  bool claimed, first;
  atomic { /* the kernel gives any id that no live thread has */
    if
    :: !alive[1] -> tid = 1
    :: !alive[2] -> tid = 2
    :: !alive[3] -> tid = 3
    fi;
    alive[tid] = true
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
