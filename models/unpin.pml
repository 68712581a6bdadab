/* The last pin of a block goes that was freed while it was pinned; beside it a second free, an allocation, a revoke and the next attach.
 *
 * Code: AllocatorCore::unpin (src/heap/core_regions.cpp); free_shared, free_unless_live (src/heap/core_blocks.cpp).
 *
 * One block of an attached pool, kPinnedFreed. One thread unpins; one frees the block again, which is a double free; one
 * allocates; one revokes the pool, attaches the same place anew and allocates there.
 *
 * The code as it was (ADR 0007 tells of its mend) made the block live, gave up the registry's lock, and freed it as a caller would. For that moment
 * it looked like anybody's. It holds that the block is not lost and that `live` is right. Two claims do not hold:
 * KNOWN_next_holder_loses_it: what unpin frees may be somebody else's by then. After a revoke and an attach that takes no misuse
 * at all; else it takes a second free.
 * KNOWN_second_free_untold: a second free in that moment is taken for the first.
 *
 * MEND_deferred is the proposal: under the registry's lock, where the pin is removed, kPinnedFreed becomes kRemote by
 * compare-and-swap and is deferred (Heap::defer takes no lock), so the block is never live again and nobody but its owner takes
 * it. Then, with the registry's lock given up, unpin takes the pool's lock, folds if a sweep is wanted, counts, and looks whether
 * a drain ends. Both claims hold then. PLANT_deferred_after_unlock is the same without the lock.
 */
#if defined(PLANT_deferred_after_unlock)
#define MEND_deferred
#endif
#if defined(MEND_deferred)
#define KNOWN_next_holder_loses_it
#define KNOWN_second_free_untold
#endif

mtype = { FREE, LIVE, DEFERRED, PINNED_FREED };

mtype state = PINNED_FREED;
bool pool;
bool registry;
bool pinned = true;
bool sweep_wanted;
byte live = 1;
bool held; /* by a caller who got it since */
byte done;

#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false

inline unlock_pool() {
  atomic { assert(live == (state != FREE)); pool = false }
}

inline fold() {
#ifdef MEND_deferred
  if
  :: sweep_wanted ->
    sweep_wanted = false;
    if
    :: atomic { state == DEFERRED -> state = FREE; live-- }
    :: state != DEFERRED
    fi
  :: else
  fi
#else
  skip /* nothing here defers */
#endif
}

proctype Unpinner() {
  lock(registry);
  pinned = false;
#ifdef MEND_deferred
#ifdef PLANT_deferred_after_unlock
  unlock(registry);
#endif
  /* By way of kRemote, which nobody looks at under this lock. */
  state = DEFERRED;
  sweep_wanted = true;
#ifndef PLANT_deferred_after_unlock
  unlock(registry);
#endif
  lock(pool);
  fold();
  unlock_pool();
#else
  state = LIVE;
  unlock(registry);
  lock(pool);
  if
  :: atomic { state == LIVE ->
#ifdef KNOWN_next_holder_loses_it
      assert(!held);
#endif
      state = FREE; held = false; live-- }
  :: atomic { state != LIVE -> skip } /* the error goes to nobody */
  fi;
  unlock_pool();
#endif
  done++
}

proctype SecondFree() {
  lock(pool);
  if
  :: atomic { state == LIVE ->
#ifdef KNOWN_second_free_untold
      assert(held);
#endif
      state = FREE; held = false; live-- }
  :: atomic { state != LIVE -> skip } /* told */
  fi;
  unlock_pool();
  done++
}

inline allocate() {
  fold();
  atomic {
    if
    :: state == FREE -> assert(!held); state = LIVE; held = true; live++
    :: else
    fi
  }
}

proctype User() {
  lock(pool);
  allocate();
  unlock_pool();
  done++
}

proctype Revoker() {
  bool closed;
  lock(pool);
  lock(registry);
  if
  :: !pinned -> closed = true
  :: else
  fi;
  unlock(registry);
  if
  :: closed ->
    /* The slab's book goes, and sweep_ is cleared (Heap::dissolve_slow); the next attach. */
    atomic { state = FREE; held = false; sweep_wanted = false; live = 0 }
    allocate()
  :: else
  fi;
  unlock_pool();
  done++
}

proctype Audit() {
  done == 4;
  lock(pool);
  fold();
  unlock_pool();
  assert(state == (held -> LIVE : FREE))
}

init {
  atomic {
    run Unpinner();
    run SecondFree();
    run User();
    run Revoker();
    run Audit()
  }
}
