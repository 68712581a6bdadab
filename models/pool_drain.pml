/* An attached pool is asked to go, in each mode, while threads allocate, free, free in signal handlers, pin and unpin.
 *
 * Code: AttachedPools::allocate_in, free, free_live, free_unpinned, note_deferred (src/heap/pool_blocks.cpp); detach, start_drain, close,
 * has_drained, settle (src/heap/attached_pools.cpp); Pool::allocate, free, take_back, live_from, is_held (src/heap/pool.cpp);
 * PoolHeap::take (src/heap/pool_heap.cpp); sweep_deferred (src/heap/pool_heap.hpp); take_slot (src/heap/free_steps.cpp); AllocatorCore::deallocate_nested
 * (src/heap/core_frees.cpp); pin, mark_pinned, unpin (src/heap/core_regions.cpp); Door::enter, leave, shut (src/heap/door.hpp); ~Gate
 * (src/heap/core.hpp).
 *
 * One slab of two blocks, both held. One thread detaches, one makes two calls elsewhere, the second when all the others are done. Beside
 * them any three of these: a thread frees block 0; one frees block 1 from a signal handler; one allocates and frees what it got; one pins
 * the whole pool or block 0, and unpins. Nobody keeps a heap of the pool (pool_cache).
 *
 * Claims: whenever the pool's lock is given up, the slab counts as free the slots that are; a pool ends once, and but for
 * kRevoke only when no block is out and nothing is pinned; a revoked pool is not pinned; nothing is handed out from a pool that is
 * gone or drains; no block is live below what a drain remembers; when all is quiet, a draining pool without blocks and pins is gone, also
 * when the last free was nested, which takes no lock: then the next call has ended it, wherever it was made.
 *
 * PLANT_looked_twice frees by a look that came before the exchange. PLANT_drain_unverified ends a drain without a look. PLANT_past_live
 * remembers the place after the block that was found live. PLANT_pins_unasked closes whatever is pinned. PLANT_unpin_silent has
 * unpin not look at the drain, PLANT_free_silent has a free not do so. PLANT_unsettled has no call look at what a nested free left;
 * PLANT_cleared_last forgets it after the look.
 *
 * Folded: what is done under the registry's lock is one step, and so is the door (door has its steps); lists_ is held only by who detaches
 * or settles, and the pool's lock stands for it; live_from looks in one step (pool_cache has it slot by slot); free_live and free, each under
 * the pool's lock, are one call. The first step after a lock is taken is one with that, and so is the last one before it is given up.
 *
 * Taken for granted: the locks (SpinLock: acquire and release); a compare-and-swap of a state acts on its latest value.
 */
#define BLOCKS 2
#define NONE 255
#define LOOKS 2 /* 2^18 in the code */

mtype = { FREE, LIVE, CACHED, REMOTE, DEFERRED, PINNED, PINNED_FREED };
mtype = { BUSY, DRAIN, REVOKE };
mtype = { CLOSED, HAS_PIN, WAITS };

mtype state[BLOCKS] = LIVE;
byte free_slots; /* Slab::free_slots */
bool pool;
bool stands = true;   /* Pool::id is what it was */
bool inserted = true; /* the region is in the registry */
bool draining;
byte drained_to;
bool door_open = true;
bool inside;
bool sweep_wanted;
bool drains_wait = true; /* AttachedPools::drains_wait_: there was a nested free in another pool */
byte whole_pins;
bool block_pinned; /* a pin of block 0 stands in the table */
byte gone;
byte done;

#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false
#define counted (state[0] == FREE) + (state[1] == FREE)
#define is_held(b) (state[b] != FREE && state[b] != CACHED && state[b] != DEFERRED)
#define out is_held(0) + is_held(1)

inline unlock_pool() {
  atomic { assert(!stands || free_slots == counted); pool = false }
}

/* PoolHeap::take_back: the exchange, and count_free, which only the lock's holder sees. */
inline take_back(b, from) {
  atomic {
    if
    :: state[b] == from -> state[b] = FREE; free_slots++
    :: else
    fi
  }
}

/* The first block that is held, into live. */
inline live_from() {
  d_step {
    assert(drained_to == 0 || !is_held(0));
    assert(drained_to < 2 || !is_held(1));
    if
    :: free_slots == BLOCKS -> assert(out == 0); live = NONE
    :: free_slots != BLOCKS && drained_to == 0 && is_held(0) -> live = 0
    :: free_slots != BLOCKS && !(drained_to == 0 && is_held(0)) -> live = (drained_to < 2 && is_held(1) -> 1 : NONE)
    fi
  }
}

/* AttachedPools::close and Pool::close. Into closed. */
inline close(by_revoke) {
  atomic {
    if
#ifndef PLANT_pins_unasked
    :: whole_pins != 0 || block_pinned -> closed = HAS_PIN
    :: whole_pins == 0 && !block_pinned && inside -> closed = WAITS; door_open = false /* Door::shut */
    :: whole_pins == 0 && !block_pinned && !inside ->
#else
    :: inside -> closed = WAITS; door_open = false
    :: !inside ->
#endif
      closed = CLOSED;
      assert(whole_pins == 0 && !block_pinned);
      assert(by_revoke || out == 0);
      door_open = false;
      inserted = false;
      state[0] = FREE;
      state[1] = FREE;
      stands = false;
      draining = false;
      gone++;
      assert(gone == 1)
    fi
  }
}

/* ~Gate: at the end of each call. drains: Heap::drains, of the process. */
inline settle() {
#ifdef PLANT_unsettled
  if
  :: drains ->
#else
  if
  :: drains || drains_wait ->
#endif
#ifdef PLANT_cleared_last
    drains = false;
#else
    atomic { drains = false; drains_wait = false }
#endif
    atomic {
      !pool ->
      if
      :: stands && draining -> /* has_drained */
#ifdef PLANT_drain_unverified
        live = NONE;
#else
        live_from();
#endif
        if
#ifdef PLANT_past_live
        :: live != NONE -> drained_to = live + 1; live = NONE
#else
        :: live != NONE -> drained_to = live; live = NONE
#endif
        :: else -> pool = true; mine = true
        fi
      :: else
      fi
    }
    if
    :: mine ->
      close(false);
      if
      :: closed == WAITS ->
        drains_wait = true; /* look_at_drains */
        close(false)
      :: closed != WAITS
      fi;
      atomic { closed = 0; mine = false; unlock_pool() }
    :: !mine
    fi;
#ifdef PLANT_cleared_last
    drains_wait = false;
#endif
#ifdef PLANT_unsettled
  :: !drains
#else
  :: !drains && !drains_wait
#endif
  fi
}

/* AttachedPools::free_live, then free: here under one lock. */
inline free_block(b) {
#ifdef PLANT_looked_twice
  lock(pool);
  if
  :: stands ->
    mine = (state[b] == LIVE);
    if
    :: atomic { state[b] == LIVE -> state[b] = FREE }
    :: atomic { state[b] == PINNED -> state[b] = PINNED_FREED }
    :: atomic { state[b] != LIVE && state[b] != PINNED -> skip }
    fi;
    if
    :: mine -> free_slots++
    :: else
    fi
  :: else
  fi;
  atomic { mine = false; unlock_pool() }
#else
  atomic {
    !pool ->
    if
    :: stands && !draining && state[b] == LIVE -> take_back(b, LIVE) /* free_live */
    :: stands && (draining || state[b] != LIVE) -> pool = true; mine = true
    :: !stands
    fi
  }
  if
  :: mine ->
    if /* Pool::free: take_slot (its tries are in pinned_free) */
    :: atomic { state[b] == LIVE -> state[b] = REMOTE }
      take_back(b, REMOTE)
    :: atomic { state[b] == PINNED -> state[b] = PINNED_FREED }
    :: atomic { state[b] != LIVE && state[b] != PINNED -> skip } /* told */
    fi;
    atomic {
      mine = false;
#ifndef PLANT_free_silent
      drains = draining;
#endif
      unlock_pool()
    }
  :: !mine
  fi;
#endif
  settle()
}

#define scratch bool drains, mine; byte live = NONE; mtype closed

proctype Elsewhere() {
  scratch;
  settle();
  done++;
  done == 5;
  settle();
  done++
}

proctype Freer() {
  scratch;
  free_block(0);
  done++
}

/* deallocate_nested; what the call then does that was interrupted is Elsewhere's. */
proctype Handler() {
  bool ok;
  if
  :: inserted ->
    if /* Door::enter */
    :: atomic { door_open -> inside = true }
      if /* take_remotely; the region stands, so the second look agrees */
      :: atomic { state[1] == LIVE -> state[1] = REMOTE; ok = true }
        atomic { assert(state[1] == REMOTE); state[1] = DEFERRED } /* Heap::defer */
      :: state[1] != LIVE /* told */
      fi;
      inside = false /* Door::leave */
    :: !door_open /* kReentered */
    fi;
    if
    :: ok -> /* note_deferred */
      sweep_wanted = true;
      drains_wait = true
    :: !ok
    fi
  :: !inserted
  fi;
  atomic { ok = false; done++ }
}

/* allocate_in, then a free */
proctype User() {
  scratch;
  byte b = NONE;
  lock(pool);
  if
  :: stands && !draining ->
    if
    :: sweep_wanted -> /* Pool::allocate, sweep_deferred */
      sweep_wanted = false;
      take_back(0, DEFERRED);
      take_back(1, DEFERRED)
    :: else
    fi;
    if
    :: state[0] == FREE -> b = 0
    :: state[0] != FREE && state[1] == FREE -> b = 1
    :: state[0] != FREE && state[1] != FREE
    fi;
    if
    :: b != NONE -> /* PoolHeap::take */
      atomic { assert(state[b] == FREE); state[b] = CACHED; free_slots-- }
      atomic { assert(gone == 0 && !draining && state[b] == CACHED); state[b] = LIVE }
    :: b == NONE
    fi
  :: else
  fi;
  unlock_pool();
  settle();
  if
  :: b != NONE -> free_block(b)
  :: b == NONE
  fi;
  atomic { b = NONE; done++ }
}

proctype Pinner() {
  scratch;
  bool whole, freed;
  if
  :: atomic { inserted -> whole_pins++; whole = true } /* pin_in_pool_locked */
  :: atomic { inserted && state[0] == LIVE -> state[0] = PINNED; block_pinned = true } /* mark_pinned */
  :: !inserted || state[0] != LIVE
  fi;
  if
  :: whole || block_pinned -> /* unpin */
    if
    :: atomic { whole -> whole_pins-- }
    :: atomic { !whole ->
        block_pinned = false;
        if /* unpin_slot */
        :: state[0] == PINNED -> state[0] = LIVE
        :: state[0] == PINNED_FREED -> state[0] = REMOTE; freed = true
        fi
      }
    fi;
    if
    :: freed -> /* free_unpinned */
      lock(pool);
      if
      :: stands -> take_back(0, REMOTE)
      :: !stands
      fi;
      unlock_pool()
    :: !freed
    fi;
#ifndef PLANT_unpin_silent
    drains = true;
#endif
    settle()
  :: !whole && !block_pinned
  fi;
  atomic { whole = false; freed = false; done++ }
}

/* AttachedPools::detach */
proctype Detacher() {
  scratch;
  byte looks;
  mtype mode;
  if
  :: mode = BUSY
  :: mode = DRAIN
  :: mode = REVOKE
  fi;
  do
  :: lock(pool);
    if
    :: looks != 0 -> door_open = false /* shut, by each look but the last, which goes on only where nobody is inside */
    :: true
    fi;
    looks++;
    if
    :: mode != REVOKE -> live_from()
    :: mode == REVOKE
    fi;
    if
    :: live != NONE ->
      door_open = true;
      if
      :: mode == DRAIN -> draining = true /* start_drain */
      :: mode == BUSY
      fi
    :: live == NONE ->
      close(mode == REVOKE);
      if
      :: closed == WAITS && looks < LOOKS
      :: closed == HAS_PIN || closed == WAITS && looks == LOOKS -> door_open = true
      :: closed == CLOSED
      fi
    fi;
    unlock_pool();
    if
    :: live == NONE && closed == WAITS && looks < LOOKS -> closed = 0 /* Backoff::wait */
    :: else -> break
    fi
  od;
  atomic { looks = 0; live = NONE; closed = 0; mode = 0 }
  settle();
  done++
}

proctype Audit() {
  done == 6;
  assert(!(stands && draining && !is_held(0) && !is_held(1)));
  assert(stands == (gone == 0))
}

init {
  atomic {
    if
    :: run Handler(); run User(); run Pinner()
    :: run Freer(); run User(); run Pinner()
    :: run Freer(); run Handler(); run Pinner()
    :: run Freer(); run Handler(); run User()
    fi;
    run Detacher();
    run Elsewhere();
    run Audit()
  }
}
