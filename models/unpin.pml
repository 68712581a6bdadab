/* The last pin of a block goes that was freed while it was pinned; beside it a second free, an allocation, a revoke and the next
 * attach, and frees from signal handlers.
 *
 * Code: AllocatorCore::unpin (src/heap/core_regions.cpp); free_unpinned_slot, free_shared, take_slot, deallocate_nested
 * (src/heap/core_frees.cpp).
 *
 * One slot of an attached pool, kPinnedFreed. One thread unpins: under the registry's lock the pin goes and the slot becomes
 * kRemote; then, under the pool's lock, it goes back to the pool, if this is still the pool that the pin was in. One thread frees
 * the block again, which is a double free; one allocates, and frees in a signal handler; one revokes the pool, attaches the same
 * place anew, allocates there, and frees in a signal handler.
 *
 * It holds that the block is never handed out while it has a holder, that `live` is right whenever the pool's lock is given up,
 * that the block is not lost, that the second free is told unless the block has its next holder by then, and that no holder is told
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
byte live = 1;
bool held;     /* by a caller who got it since */
bool mistaken; /* a free too many, or one that a revoke overtook, took it from its next holder: that cannot be told apart */
byte done;

#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false

inline unlock_pool() {
  atomic { assert(live == (state != FREE)); pool = false }
}

inline fold() {
  if
  :: sweep_wanted ->
    sweep_wanted = false;
    if
    :: state == DEFERRED -> state = FREE; live-- /* sweep_slab, give_back; take_folded */
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
  lock(pool); /* free_unpinned_slot */
#endif
  if
#ifndef PLANT_pool_unasked
  :: pool_id != my_pool
#endif
#ifdef PLANT_live_again
  :: else ->
    if
    :: atomic { state == LIVE -> assert(!held); state = FREE; live-- }
    :: atomic { state != LIVE -> skip }
    fi
#else
  :: else ->
    if
    :: atomic { state == REMOTE -> assert(!held) }
      state = FREE; /* give_back */
      live--
    :: atomic { state != REMOTE -> skip }
    fi
#endif
  fi;
#ifndef PLANT_unlocked
  unlock_pool();
#endif
  done++
}

/* free_shared */
proctype SecondFree() {
  lock(pool);
  if
  :: atomic { state == LIVE -> assert(held); mistaken = true; state = REMOTE; held = false } /* take_slot */
    state = FREE; /* give_back */
    live--
  :: atomic { state != LIVE -> skip } /* told */
  fi;
  unlock_pool();
  done++
}

inline allocate() {
  fold();
  got = false;
  atomic {
    if
    :: state == FREE -> assert(!held); state = LIVE; held = true; live++; got = true; its_pool = pool_id
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
    /* The slab's book goes, and sweep_ is cleared (Heap::dissolve_slow); the next attach. */
    atomic { state = FREE; held = false; sweep_wanted = false; live = 0; pool_id++ }
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
