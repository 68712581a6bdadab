/* The last pin of a block goes that was freed while it was pinned; beside it a second free, an allocation, a revoke and the next
 * attach, and frees from signal handlers.
 *
 * Code: AllocatorCore::unpin, unpin_slot (src/heap/core_regions.cpp); deallocate_nested (src/heap/core_frees.cpp);
 * AttachedPools::free_unpinned (src/heap/pool_blocks.cpp); Pool::free, take_back, close (src/heap/pool.cpp); PoolHeap::sweep_deferred
 * (src/heap/pool_heap.hpp); take_slot (src/heap/free_steps.cpp).
 *
 * One slot of an attached pool, kPinnedFreed. One thread unpins: under the registry's lock the pin goes and the slot becomes
 * kRemote; then, under the pool's lock, it goes back to the pool, if this is still the pool that the pin was in. One thread frees
 * the block again, which is a double free; one allocates, and frees in a signal handler; one revokes the pool, attaches the same
 * place anew, allocates there, and frees in a signal handler.
 *
 * It holds that the block is never handed out while it has a holder, that the slab counts its free slots whenever the pool's
 * lock is given up, that the block is not lost, that the second free is told unless the block has its next holder by then, and that no holder is told
 * of a double free that was none. PLANT_live_again makes the slot live on its way, as the code once did. PLANT_pool_unasked
 * does not ask whether the pool is still the same. PLANT_unlocked gives the slot back without the pool's lock.
 */
mtype = { FREE, LIVE, REMOTE, DEFERRED, PINNED_FREED };

mtype state = PINNED_FREED;
bool pool;
bool registry;
bool pinned = true;
bool sweep_wanted;
byte pool_id;
byte free_slots; /* Slab::free_slots; the slab has one slot */
bool held;     /* by a caller who got it since */
bool mistaken; /* a free too many, or one that a revoke overtook, took it from its next holder: that cannot be told apart */
byte done;

#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false

inline unlock_pool() {
  atomic { assert(free_slots == (state == FREE)); pool = false }
}

/* sweep_deferred */
inline sweep() {
  if
  :: sweep_wanted ->
    sweep_wanted = false;
    if
    :: state == DEFERRED -> state = FREE; free_slots++ /* sweep_slab, give_back */
    :: else
    fi
  :: else
  fi
}

proctype Unpinner() {
  byte my_pool;
  lock(registry); /* unpin */
  pinned = false;
  my_pool = pool_id;
#ifdef PLANT_live_again
  state = LIVE;
#else
  state = REMOTE; /* unpin_slot: it is kPinnedFreed, which nobody else changes */
#endif
  unlock(registry);
#ifndef PLANT_unlocked
  lock(pool); /* free_unpinned */
#endif
  if
#ifndef PLANT_pool_unasked
  :: pool_id != my_pool
#endif
#ifdef PLANT_live_again
  :: else ->
    if
    :: atomic { state == LIVE -> assert(!held); state = FREE; free_slots++ }
    :: atomic { state != LIVE -> skip }
    fi
#else
  :: else ->
    if
    :: atomic { state == REMOTE -> assert(!held); state = FREE } /* take_back */
      free_slots++ /* count_free */
    :: atomic { state != REMOTE -> skip }
    fi
#endif
  fi;
#ifndef PLANT_unlocked
  unlock_pool();
#endif
  done++
}

/* Pool::free */
proctype SecondFree() {
  lock(pool);
  if
  :: atomic { state == LIVE -> assert(held); mistaken = true; state = REMOTE; held = false } /* take_slot */
    if /* take_back */
    :: atomic { state == REMOTE -> state = FREE }
      free_slots++
    :: state != REMOTE /* a nested free that a revoke overtook (the door is not here) has it */
    fi
  :: atomic { state != LIVE -> skip } /* told */
  fi;
  unlock_pool();
  done++
}

inline allocate() {
  sweep();
  got = false;
  atomic {
    if
    :: state == FREE -> assert(!held); state = LIVE; held = true; free_slots--; got = true; its_pool = pool_id
    :: else
    fi
  }
}

/* A revoke drops what is live, so a free after it is the caller's mistake. */
#define excused (mistaken || its_pool != pool_id)

/* deallocate_nested */
inline nested_free() {
  if
  :: got ->
    if
    :: atomic { state == LIVE && !excused -> state = REMOTE; held = false }
      if
      :: atomic { state == REMOTE -> state = DEFERRED; mistaken = mistaken || its_pool != pool_id }
        sweep_wanted = true
      :: atomic { state != REMOTE -> assert(excused) }
      fi
    :: atomic { state != LIVE || excused -> assert(excused) }
    fi
  :: else
  fi
}

proctype User() {
  bool got;
  byte its_pool;
  lock(pool);
  allocate();
  unlock_pool();
  nested_free();
  done++
}

proctype Revoker() {
  bool got;
  byte its_pool;
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
    /* Pool::close: the slab's book goes; the next attach, in the same book. A sweep that is wanted stays so. */
    atomic { state = FREE; held = false; free_slots = 1; pool_id++ }
    allocate()
  :: else
  fi;
  unlock_pool();
  nested_free();
  done++
}

proctype Audit() {
  done == 4;
  lock(pool);
  sweep();
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
