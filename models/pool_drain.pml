/* An attached pool drains or is revoked while threads allocate, free, free in signal handlers, pin and unpin.
 *
 * Code: AllocatorCore::allocate_in (src/heap/core_blocks.cpp); free_shared, count_folded_locked, deallocate_nested (src/heap/core_frees.cpp);
 * detach_pool, close_pool_locked, finish_drain, settle_drains, pin, mark_pinned, unpin (src/heap/core_regions.cpp);
 * ~Gate (src/heap/core.hpp).
 *
 * Two blocks, both held. One thread frees block 0, one frees block 1 from a signal handler, one allocates and frees what it
 * got, one pins the whole pool or block 0 and unpins, one drains or revokes; one makes two calls elsewhere, the second when all
 * the others are done. Locks in the code's order: lists, pool, registry.
 *
 * Claims: whenever the pool's lock is given up, `live` counts the blocks that are not free; a drain ends the pool once, and
 * only when no block is out and nothing is pinned; a revoked pool is not pinned; nothing is handed out from a pool that is
 * gone or drains; when all is quiet, a draining pool without blocks and pins is gone, also when the last free was nested,
 * which takes no lock: then the next call has ended it, wherever it was made.
 *
 * Taken for granted: the locks (SpinLock: acquire and release); a compare-and-swap of a state acts on its latest value.
 */
#define BLOCKS 2
#define NONE 255

mtype = { FREE, LIVE, REMOTE, DEFERRED, PINNED, PINNED_FREED };

mtype state[BLOCKS] = LIVE;
bool lists;
bool pool;
bool registry;
bool stands = true;   /* Pool::region */
bool inserted = true; /* the region is in the registry */
bool draining;
bool sweep_wanted;
bool nested_frees = true; /* AllocatorCore::drains_wait_: there was one in another pool */
byte live = BLOCKS;
byte whole_pins;
bool block_pinned; /* a pin of block 0 stands in the table */
byte gone;
byte done;

#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false
#define out (state[0] != FREE) + (state[1] != FREE)

inline unlock_pool() {
  atomic { assert(!stands || live == out); pool = false }
}

inline fold() {
  if
  :: sweep_wanted ->
    sweep_wanted = false;
    d_step {
      if
      :: state[0] == DEFERRED -> state[0] = FREE; live--
      :: else
      fi;
      if
      :: state[1] == DEFERRED -> state[1] = FREE; live--
      :: else
      fi
    }
  :: else
  fi
}

/* close_pool_locked: both locks are held. */
inline close_pool(by_drain) {
  lock(registry);
  if
#ifdef PLANT_pins_unasked
  :: true ->
#else
  :: whole_pins == 0 && !block_pinned ->
#endif
    assert(whole_pins == 0 && !block_pinned);
    assert(!by_drain || out == 0);
    inserted = false;
    unlock(registry);
    atomic { state[0] = FREE; state[1] = FREE }
    stands = false;
    draining = false;
    gone++;
    assert(gone == 1)
#ifndef PLANT_pins_unasked
  :: else -> unlock(registry)
#endif
  fi
}

inline finish_drain() {
  lock(lists);
  lock(pool);
  if
#ifdef PLANT_drain_unverified
  :: true -> close_pool(true)
#else
  :: stands && draining && live == 0 -> close_pool(true)
  :: else
#endif
  fi;
  unlock_pool();
  unlock(lists)
}

/* drained: the caller's. */
inline free_shared(b) {
  lock(pool);
  if
  :: stands ->
#ifdef PLANT_looked_twice
    was_live = (state[b] == LIVE);
    if
    :: atomic { state[b] == LIVE -> state[b] = FREE }
    :: atomic { state[b] == PINNED -> state[b] = PINNED_FREED }
    :: atomic { state[b] != LIVE && state[b] != PINNED -> skip }
    fi;
    if
    :: was_live -> live--
    :: else
    fi;
#else
    /* free_slot_locked: take_slot (its tries are in pinned_free), then give_back */
    if
    :: atomic { state[b] == LIVE -> state[b] = REMOTE }
      state[b] = FREE;
      live--
    :: atomic { state[b] == PINNED -> state[b] = PINNED_FREED }
    :: atomic { state[b] != LIVE && state[b] != PINNED -> skip } /* told */
    fi;
#endif
    if
    :: draining -> fold()
    :: else
    fi;
    drained = draining && live == 0
  :: else
  fi;
  unlock_pool();
  if
  :: drained -> finish_drain()
  :: else
  fi;
  drained = false
}

/* ~Gate: at the end of a call elsewhere. */
inline settle_drains() {
#ifdef PLANT_unsettled
  skip
#else
  if
  :: nested_frees ->
#ifdef PLANT_cleared_last
    skip;
#else
    nested_frees = false;
#endif
    lock(lists);
    lock(pool);
    if
    :: stands && draining ->
      fold();
      if
      :: live == 0 -> close_pool(true)
      :: else
      fi
    :: else
    fi;
    unlock_pool();
    unlock(lists);
#ifdef PLANT_cleared_last
    nested_frees = false
#endif
  :: else
  fi
#endif
}

proctype Elsewhere() {
  settle_drains();
  done++;
  done == 6;
  settle_drains();
  done++
}

proctype Freer() {
  bool drained, was_live;
  free_shared(0);
  done++
}

/* deallocate_nested; its door is in the model of that name */
proctype Handler() {
  bool asked;
  if
  :: inserted ->
    if
    :: atomic { state[1] == LIVE -> state[1] = REMOTE }
      if
      :: !inserted ->
        atomic {
          if
          :: state[1] == REMOTE -> state[1] = LIVE
          :: else
          fi
        }
      :: inserted ->
        atomic {
          if
          :: state[1] == REMOTE -> state[1] = DEFERRED; asked = true
          :: else
          fi
        }
        if
        :: asked ->
          sweep_wanted = true;
          nested_frees = true
        :: else
        fi
      fi
    :: atomic { state[1] != LIVE -> skip }
    fi
  :: else
  fi;
  done++
}

/* allocate_in, then a free */
proctype User() {
  bool drained, was_live;
  byte b = NONE;
  lock(pool);
  if
  :: stands && !draining ->
    fold();
    atomic {
      if
      :: state[0] == FREE -> b = 0
      :: state[1] == FREE -> b = 1
      :: state[0] != FREE && state[1] != FREE
      fi;
      if
      :: b != NONE -> assert(gone == 0); state[b] = LIVE; live++
      :: else
      fi
    }
  :: else
  fi;
  unlock_pool();
  if
  :: b != NONE -> free_shared(b)
  :: else
  fi;
  done++
}

proctype Pinner() {
  bool drained, was_live, whole, freed;
  lock(registry);
  if
  :: inserted && state[0] != FREE -> /* pin_in_pool_locked */
    if
    :: true -> whole_pins++; whole = true
    :: true ->
      atomic { /* mark_pinned */
        if
        :: state[0] == LIVE -> state[0] = PINNED; block_pinned = true
        :: else
        fi
      }
    fi
  :: else
  fi;
  unlock(registry);
  if
  :: whole || block_pinned -> /* unpin */
    lock(registry);
    if
    :: whole -> whole_pins--
    :: else ->
      block_pinned = false;
      if
      :: atomic { state[0] == PINNED -> state[0] = LIVE }
      :: atomic { state[0] == PINNED_FREED -> state[0] = REMOTE; freed = true }
      fi
    fi;
    unlock(registry);
    if
    :: freed -> /* free_unpinned_slot */
      lock(pool);
      if
      :: stands && state[0] == REMOTE ->
        state[0] = FREE; /* give_back */
        live--;
        if
        :: draining -> fold() /* count_folded_locked */
        :: else
        fi
      :: else
      fi;
      unlock_pool()
    :: else
    fi;
#ifndef PLANT_unpin_silent
    lock(pool);
    drained = draining && live == 0;
    unlock_pool();
    if
    :: drained -> finish_drain()
    :: else
    fi;
#endif
    drained = false
  :: else
  fi;
  done++
}

/* detach_pool */
proctype Detacher() {
  lock(lists);
  lock(pool);
  fold();
  if
  :: live != 0 -> draining = true
  :: live == 0 -> close_pool(true)
  :: live != 0 -> close_pool(false) /* revoke */
  fi;
  unlock_pool();
  unlock(lists);
  done++
}

proctype Audit() {
  done == 7;
  assert(!(stands && draining && out == 0));
  assert(!stands || !draining || (state[0] != DEFERRED && state[1] != DEFERRED));
  assert(stands == (gone == 0))
}

init {
  atomic {
    run Freer();
    run Handler();
    run User();
    run Pinner();
    run Detacher();
    run Elsewhere();
    run Audit()
  }
}
