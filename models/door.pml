/* The library's own work on the bytes of an attached pool beside each way in which the pool can go.
 *
 * Code: Door::enter, enter_held, leave, open, shut (src/heap/door.hpp); AllocatorCore::owner_of, touch, scrub_kept
 * (src/heap/core_contents.cpp); AttachedPools::attach, detach, close, settle, start_drain (src/heap/attached_pools.cpp); free,
 * free_unpinned, note_deferred (src/heap/pool_blocks.cpp); Pool::live_from (src/heap/pool.cpp); AllocatorCore::unpin, finish_region
 * (src/heap/core_regions.cpp); deallocate_nested (src/heap/core_frees.cpp); on_thread_exit (src/heap/core.cpp); ~Gate (src/heap/core.hpp).
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
 * Taken for granted: the locks; open_for_, inside_ and drains_wait_ are one order for all (seq_cst). Folded: live_from looks at the states one
 * after another, here at a count of those that are held, in one step: none becomes live meanwhile (pool_drain, pool_cache). Left out:
 * fork (Door::empty), when no other thread is there any more; which bytes of the range are touched.
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
byte live;            /* states for which is_held; live_from */
bool pinned;
bool drains_wait;     /* AttachedPools::drains_wait_ */
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

/* AttachedPools::close: into closed. */
inline close() {
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
  :: closed == GONE -> d_step { live = 0; draining = false; id = NONE } /* Pool::close: all guarded by the pool's lock */
  :: else
  fi
}

/* finish_region: what detach answers, or `gone` tells. */
inline answer() {
  if
  :: closed == GONE -> atomic { assert(touching == 0); range = NONE; closed = NO }
  :: else -> closed = NO
  fi
}

/* ~Gate; settle, which walks until no pool is ready: there is one. drains: Heap::drains, of the process. */
inline end_of_call() {
  if
  :: drains || drains_wait ->
    drains = false;
    drains_wait = false;
    lock(lists);
    lock(pool);
    if
    :: id != NONE && draining && live == 0 -> /* has_drained */
      close();
      if
      :: closed == WAITS ->
#ifndef PLANT_note_left_out
        drains_wait = true; /* look_at_drains */
#endif
#ifndef PLANT_no_second_try
        close()
#endif
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
  bool may, noted, drains;
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

/* AttachedPools::free */
proctype Freer() {
  bool drains;
  mtype closed = NO;
  lock(pool);
  if
  :: id == OLD -> /* Pool::free */
#ifdef PLANT_scrubbed_unlocked
    unlock(pool);
    work(OLD);
    lock(pool);
    if
    :: id == OLD -> live--
    :: else
    fi;
#else
    work(OLD);
    live--;
#endif
    drains = draining
  :: else
  fi;
  unlock(pool);
  end_of_call();
  running--
}

/* unpin, of the last pin, with scrub_on_free */
proctype Unpinner() {
  bool drains;
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
  lock(pool); /* free_unpinned */
  if
  :: id == OLD -> live--
  :: else
  fi;
  unlock(pool);
  drains = true;
  end_of_call();
  running--
}

/* deallocate_nested; then the call ends that was interrupted */
proctype Handler() {
  bool may, drains;
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
      atomic {
        if
        :: id == OLD -> live-- /* Heap::defer: nobody holds what is kDeferred */
        :: else /* revoked, as PLANT_nested_outside allows */
        fi
      }
#ifndef PLANT_nested_outside
      leave();
#endif
      drains_wait = true /* note_deferred */
    :: else
    fi
  fi;
  end_of_call();
  atomic { may = false; running-- }
}

proctype Detacher() {
  byte looks, calls;
  bool again, drains;
  mtype mode = NO, closed = NO;
  do
  :: calls < 2 && range == OLD ->
    calls++;
    if
    :: mode = BUSY
    :: mode = DRAIN
    :: mode = REVOKE
    fi;
    do /* detach */
    :: again = false;
      lock(lists);
      lock(pool);
      if
      :: id == NONE /* kNotFound: its drain ended */
      :: id != NONE ->
        if
        :: looks != 0 -> open_for = SHUT /* shut, by each look but the last, which goes on only where nobody is inside */
        :: true
        fi;
        if
        :: live != 0 && mode == BUSY -> open_for = OLD
        :: live != 0 && mode == DRAIN -> open_for = OLD; draining = true /* start_drain */
        :: else ->
          close();
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
  :: range == NONE -> /* attach: of the range that is the caller's again, in the same book */
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
  bool drains;
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
