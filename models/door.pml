/* The library's own work on the bytes of an attached pool beside each way in which the pool can go.
 *
 * Code: Door::enter, enter_held, leave, open, shut (src/heap/door.hpp); AllocatorCore::owner_of, touch, scrub_kept
 * (src/heap/core_contents.cpp); detach_pool, close_pool_locked, finish_drain, close_drained_locked, settle_drains, attach_pool, unpin
 * (src/heap/core_regions.cpp); free_shared, free_unpinned_slot, deallocate_nested, count_folded_locked (src/heap/core_frees.cpp);
 * on_thread_exit (src/heap/core.cpp); ~Gate (src/heap/core.hpp).
 *
 * One pool, and any two of these: a worker zeroes or copies a block in two pieces, and its thread may end in the middle; a thread frees
 * a block of the pool, so that the worker's may be one that was freed meanwhile; one unpins a block that was freed while it was pinned, and
 * scrubs it; one frees a block in a signal handler, and scrubs it. Beside them one detaches, twice if the first time says no, in
 * any mode; when the pool has gone, it attaches another one to the same range, with the same book and the same door.
 *
 * Claims: bytes are touched only as long as the region stands for which that is done, until detach has answered or `gone` is called;
 * a door is left once for each time that it was entered; when all is quiet nobody is inside, but for a thread that ended
 * between entering and its note of that; a draining pool without blocks and pins has gone when the calls in its way have ended, or
 * with the next call, if a thread ended in the middle of one.
 *
 * KNOWN_turned_away: the worker is turned away only from a pool that goes. But a detach that waits and then gives up, because
 * a block was pinned or placed meanwhile, has turned it away from a pool that stays.
 *
 * Taken for granted: the locks; open_for_, inside_ and drains_wait_ are one order for all (seq_cst). Left out: fork (Door::empty), when
 * no other thread is there any more; which bytes of the range are touched.
 */
#define NONE 0
#define OLD 1 /* the ids of the two regions */
#define NEW 2
#define SHUT 3
#define LOOKS 2 /* 2^18 in the code */

mtype = { BUSY, DRAIN, REVOKE };
mtype = { NO, GONE, PINNED, WAITS };

byte open_for = OLD; /* Door::open_for_ */
byte inside;         /* Door::inside_ */
bool lists;
bool pool;
bool registry;
byte id = OLD;        /* Pool::id; NONE: it is not in use */
byte inserted = OLD;  /* the region in the registry */
bool draining;
byte live;
bool pinned;
bool deferred;        /* a slot of the pool is kDeferred, and the sweep is wanted */
bool drains_wait;     /* AllocatorCore::drains_wait_ */
byte running;

/* Ghosts. */
byte range = OLD; /* whose bytes these are */
byte touching;
bool ended_inside; /* a thread ended in the middle of its call */
bool stuck;        /* and was inside, but had not noted it yet */
bool turned_away;

#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false

inline work(whose) {
  atomic { assert(range == whose); touching++ }
  atomic { assert(range == whose); touching-- }
}

/* Door::enter_held */
#define enter_held() inside++

/* Door::leave */
inline leave() {
  atomic { assert(inside > 0); inside-- }
}

/* Door::enter: into may. */
inline enter(whose) {
#ifdef PLANT_entered_late
  if
  :: open_for == whose -> enter_held(); may = true
  :: open_for != whose -> may = false
  fi
#else
  enter_held();
  if
#ifdef PLANT_id_unasked
  :: open_for != SHUT -> may = true
  :: open_for == SHUT ->
#else
  :: open_for == whose -> may = true
  :: open_for != whose ->
#endif
    leave();
    may = false
  fi
#endif
}

/* AllocatorCore::count_folded_locked, detach_pool: under the pool's lock. */
inline fold() {
  atomic {
    if
    :: deferred -> deferred = false; live--
    :: else
    fi
  }
}

/* AllocatorCore::close_pool_locked: into closed. */
inline close_pool() {
  lock(registry);
  if
  :: pinned -> closed = PINNED
  :: else ->
    /* Door::shut */
#ifdef PLANT_looked_first
    if
    :: inside == 0 -> closed = GONE
    :: inside != 0 -> closed = WAITS
    fi;
    open_for = SHUT;
#else
#ifndef PLANT_not_shut
    open_for = SHUT;
#endif
    if
#ifdef PLANT_not_waited
    :: true -> closed = GONE
#else
    :: inside == 0 -> closed = GONE
    :: inside != 0 -> closed = WAITS
#endif
    fi;
#endif
    if
    :: closed == GONE -> inserted = NONE /* Registry::remove_locked */
    :: else
    fi
  fi;
  unlock(registry);
  if
  :: closed == GONE -> d_step { live = 0; deferred = false; draining = false; id = NONE } /* all guarded by the pool's lock */
  :: else
  fi
}

/* AllocatorCore::finish_region: what detach answers, or `gone` tells. */
inline answer() {
  if
  :: closed == GONE -> atomic { assert(touching == 0); range = NONE; closed = NO }
  :: else -> closed = NO
  fi
}

/* AllocatorCore::close_drained_locked */
inline close_drained() {
  close_pool();
  if
  :: closed == WAITS ->
#ifndef PLANT_note_left_out
    drains_wait = true;
#endif
#ifndef PLANT_no_second_try
    close_pool()
#endif
  :: else
  fi
}

/* AllocatorCore::finish_drain */
inline finish_drain(whose) {
  lock(lists);
  lock(pool);
  if
  :: id == whose && draining && live == 0 -> close_drained()
  :: else
  fi;
  unlock(pool);
  unlock(lists);
  answer()
}

/* AllocatorCore::Gate::~Gate; settle_drains, which walks until no pool is ready: there is one */
inline end_of_call() {
  if
  :: drains_wait ->
    drains_wait = false;
    lock(lists);
    lock(pool);
    if
    :: id != NONE && draining ->
      fold();
      if
      :: live == 0 -> close_drained()
      :: else
      fi
    :: else
    fi;
    unlock(pool);
    unlock(lists);
    answer()
  :: else
  fi
}

/* allocate_zeroed, reallocate */
proctype Worker() {
  bool may, noted;
  byte pieces;
  mtype closed = NO;
  if
  :: inserted == NONE -> turned_away = true; goto done /* owner_of: no_door_ */
  :: inserted != NONE
  fi;
  do /* touch */
  :: pieces < 2 ->
    pieces++;
#ifdef PLANT_noted_first
    noted = true;
    if
    :: true
    :: goto ends
    fi;
#endif
    enter(OLD);
    if
    :: !may -> turned_away = true; break
    :: may
    fi;
    if
    :: noted = true /* Visit: Heap::visits */
    :: stuck = !noted; goto ends
    fi;
    if
    :: work(OLD)
    :: goto ends
    fi;
#ifdef PLANT_forgotten_last
    leave();
    if
    :: noted = false
    :: goto ends
    fi
#else
    noted = false;
    leave() /* ~Visit. That a thread ends between these two is as if it had ended before its note. */
#endif
  :: else -> break
  od;
done:
  end_of_call();
  goto out;
ends: /* on_thread_exit */
  ended_inside = true;
  if
  :: noted -> leave()
  :: else
  fi;
out:
  atomic { may = false; noted = false; pieces = 0; running-- }
}

/* free_shared */
proctype Freer() {
  bool drained;
  mtype closed = NO;
  lock(pool);
  if
  :: id == OLD ->
#ifdef PLANT_scrubbed_unlocked
    unlock(pool);
    work(OLD);
    lock(pool);
    if
    :: id == OLD -> live--
    :: else
    fi;
#else
    work(OLD); /* scrub_slot, by free_slot_locked */
    live--;
#endif
    if
    :: id == OLD && draining -> fold(); drained = (live == 0) /* drained_locked */
    :: else
    fi
  :: else
  fi;
  unlock(pool);
  if
  :: drained -> finish_drain(OLD)
  :: else
  fi;
  end_of_call();
  atomic { drained = false; running-- }
}

/* unpin, of the last pin, with scrub_on_free */
proctype Unpinner() {
  bool drained;
  mtype closed = NO;
  lock(registry);
  pinned = false;
#ifdef PLANT_entered_unlocked
  unlock(registry);
  enter_held();
#else
#ifndef PLANT_not_entered
  enter_held();
#endif
  unlock(registry);
#endif
  work(OLD); /* scrub_kept; that its thread ends there is the worker's case */
#ifndef PLANT_not_entered
  leave();
#endif
  lock(pool); /* free_unpinned_slot, free_unpinned_pages */
  if
  :: id == OLD ->
    live--;
    if
    :: draining -> fold() /* count_folded_locked */
    :: else
    fi
  :: else
  fi;
  unlock(pool);
  lock(pool);
  drained = draining && live == 0;
  unlock(pool);
  if
  :: drained -> finish_drain(OLD)
  :: else
  fi;
  end_of_call();
  atomic { drained = false; running-- }
}

/* deallocate_nested; then the call ends that was interrupted */
proctype Handler() {
  bool may;
  mtype closed = NO;
  if
  :: inserted == NONE /* kReentered */
  :: inserted != NONE ->
#ifdef PLANT_nested_outside
    may = (open_for == OLD);
#else
    enter(OLD);
#endif
    if
    :: may ->
      work(OLD); /* scrub_slot, by take_remotely */
      deferred = true; /* Heap::defer */
#ifndef PLANT_nested_outside
      leave();
#endif
      drains_wait = true
    :: else
    fi
  fi;
  end_of_call();
  atomic { may = false; running-- }
}

proctype Detacher() {
  byte looks, calls;
  bool again;
  mtype mode = NO, closed = NO;
  do
  :: calls < 2 && range == OLD ->
    calls++;
    if
    :: mode = BUSY
    :: mode = DRAIN
    :: mode = REVOKE
    fi;
    do /* detach_pool */
    :: again = false;
      lock(lists);
      lock(pool);
      if
      :: id == NONE /* kNotFound: its drain ended */
      :: id != NONE ->
        fold();
        if
        :: live != 0 && mode == BUSY -> open_for = OLD
        :: live != 0 && mode == DRAIN -> open_for = OLD; draining = true
        :: else ->
          close_pool();
          if
          :: closed == GONE
          :: closed == WAITS && looks < LOOKS -> looks++; again = true
          :: closed == PINNED || closed == WAITS && looks == LOOKS -> open_for = OLD
          fi
        fi
      fi;
      unlock(pool);
      unlock(lists);
      answer();
      if
      :: again /* Backoff::wait */
      :: else -> break
      fi
    od;
    atomic { looks = 0; mode = NO };
    end_of_call()
  :: range == NONE -> /* attach_pool: of the range that is the caller's again, in the same book */
    lock(lists);
    lock(pool);
    assert(id == NONE && !draining && live == 0);
    inserted = NEW; /* Registry::insert */
    atomic { range = NEW; id = NEW }
    open_for = NEW; /* Door::open */
    unlock(pool);
    unlock(lists);
    break
  :: calls == 2 && range == OLD -> break
  od;
  atomic { calls = 0; running-- }
}

proctype Audit() {
  mtype closed = NO;
  running == 0;
  if
  :: ended_inside -> end_of_call() /* of the next call, of any thread */
  :: else
  fi;
  assert(inside == stuck);
  assert(stuck || id != OLD || !draining || live != 0 || pinned);
  assert(range != OLD || id == OLD);
#ifdef KNOWN_turned_away
  assert(!turned_away || range != OLD);
#endif
}

init {
  atomic {
    running = 3;
    run Detacher();
    if
    :: live = 2; run Freer(); run Handler()
    :: run Worker(); live = 1; pinned = true; run Unpinner()
    :: run Worker(); live = 1; run Freer()
    :: run Worker(); live = 1; run Handler()
    :: live = 2; pinned = true; run Freer(); run Unpinner()
    :: live = 2; pinned = true; run Handler(); run Unpinner()
    fi;
    if
    :: live++ /* one more, which its holder keeps */
    :: true
    fi;
    run Audit()
  }
}
