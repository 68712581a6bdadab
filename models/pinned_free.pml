/* The first free of a pinned block, by each way to free, beside the unpin of its last pin, a second pin, a second free, and the end of its
 * slab.
 *
 * Code: each step below names the function that makes it: AllocatorCore::take_remotely, free_own, free_orphan,
 * deallocate_nested, free_unpinned_slot (src/heap/core_frees.cpp); try_take, take_slot (src/heap/free_steps.cpp); Pool::free, take_back
 * (src/heap/pool.cpp); AttachedPools::free_live, free_unpinned (src/heap/pool_blocks.cpp); unpin, unpin_slot, mark_pinned (src/heap/core_regions.cpp);
 * Heap::defer, sweep (src/heap/heap.cpp).
 *
 * One slot. It lies at address X, is live, and one pin holds it. Its holder frees it once: as the owner of its slab, under the lock of a shared
 * heap, from another thread, or in a signal handler. A second thread may free X, too, however late: a double free. The
 * owner gives the slab back when the slot is free and cuts it anew, so that the slot lies at Y, and is live. One thread unpins, may pin
 * whatever lives in the slot then, and unpins that.
 *
 * Claims: of the frees of X exactly one is answered ok; a slot is free only after one free of its own block, and never while
 * a pin holds it; what lives at Y stays live; when all is quiet the slot is free or live, and no free is lost; a free that takes no lock is
 * told kReentered at worst, and is good when it comes again.
 *
 * Taken for granted: a compare-and-swap acts on the latest value; the locks. Left out: the owner's plain store over kLive (remote_free has
 * it), batches (remote_free), owners that change (hand_over), revoke (unpin);
 * a thread's swap from kLive to kCached without the lock (pool_cache), which is followed by the frees here when it fails.
 */
#define X 0
#define Y 1
#define GONE 2
#define NESTED_TRIES 3 /* 16 in the code */

mtype = { FREE, LIVE, REMOTE, DEFERRED, PINNED, PINNED_TAKEN, PINNED_FREED };
mtype = { AS_OWNER, LOCKED, ELSEWHERE, NESTED };
mtype = { TAKEN, KEPT, NOT_LIVE, MOVING };

mtype state = PINNED;
byte cut = X;      /* what find_slot says */
bool is_shared;    /* the slab's heap: a pool's or the orphans' */
bool heap;         /* its lock */
bool registry;
bool sweep_wanted;
bool pinned = true; /* a pin of what lives in the slot stands in the table */
byte done;

/* Ghosts. */
byte accepted; /* frees of what lives in the slot that took effect */
byte good;     /* frees of X that were answered ok */
byte told;
byte frees = 1;

#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false
#define become(new) state = new; assert(state != FREE || (accepted == 1 && !pinned))

/* try_take(state, kept, tries): into taking. */
inline try_take(kept, tries) {
  atomic { seen = LIVE; left = tries; taking = MOVING }
  do
  :: left == 0 -> break /* kMoving */
  :: left > 0 ->
    left--;
    if
    :: atomic { state == seen -> /* the exchange succeeds */
        if
        :: seen == PINNED -> state = kept; taking = KEPT; accepted = accepted + (kept == PINNED_FREED)
        :: else -> state = REMOTE; taking = TAKEN
        fi
      }
      break
    :: atomic { state != seen -> /* it fails, and has found */
#ifdef PLANT_failure_believed
        if
        :: seen == LIVE -> seen = PINNED
        :: else -> seen = FREE
        fi
#else
        seen = state
#endif
      }
      if
      :: seen != LIVE && seen != PINNED -> taking = NOT_LIVE; break
      :: else
      fi
    fi
  od;
  atomic { seen = FREE; left = 0 }
}

inline take_slot(kept) {
  try_take(kept, 2);
  if
  :: taking == MOVING ->
    lock(registry);
    try_take(kept, 2);
    unlock(registry);
    assert(taking != MOVING)
  :: else
  fi
}

/* Heap::defer, of what this thread has made kRemote. */
inline defer() {
  atomic { assert(state == REMOTE); state = DEFERRED }
  sweep_wanted = true
}

/* take_remotely, then deallocate_nested's or free_remote's way to the owner. */
inline take_remotely() {
  if
  :: cut != X -> told++ /* find_slot */
  :: else ->
    if
    :: is_nested -> try_take(PINNED_TAKEN, NESTED_TRIES)
    :: else -> take_slot(PINNED_TAKEN)
    fi;
    if
    :: taking == NOT_LIVE -> told++
    :: taking == MOVING -> again = true /* kReentered */
    :: else ->
      still = (cut == X); /* is_still */
#ifdef PLANT_no_second_look
      still = true;
#endif
      if
      :: taking == KEPT ->
        if
        :: atomic { state == PINNED_TAKEN ->
            if
            :: still -> state = PINNED_FREED; accepted++; good++
            :: else -> state = PINNED; told++
            fi
          }
#ifdef PLANT_mark_given_up
        :: atomic { state != PINNED_TAKEN -> told++ }
#else
        :: atomic { state != PINNED_TAKEN -> assert(state == REMOTE); taking = TAKEN } /* the last pin has gone */
#endif
        fi
      :: else
      fi;
      if
      :: taking == TAKEN && still -> atomic { accepted++; good++ } defer()
      :: taking == TAKEN && !still ->
        atomic { assert(state == REMOTE); state = LIVE; told++ }
      :: else
      fi;
      still = false
    fi;
    taking = MOVING
  fi
}

/* free_own (with scrub_on_free, or of what is not kLive), free_orphan, Pool::free; in a pool free_live may come before. */
inline free_in_place() {
  if
  :: cut != X -> told++
  :: atomic { cut == X && is_shared && state == LIVE -> accepted++; good++; become(FREE) } /* free_live: take_back from kLive */
  :: cut == X ->
    take_slot(PINNED_FREED);
    if
    :: taking == TAKEN -> atomic { accepted++; good++; become(FREE) } /* take_own, give_back, take_back */
    :: taking == KEPT -> good++
    :: else -> told++
    fi
  fi
}

proctype Freer(mtype way) {
  mtype seen = FREE, taking = MOVING;
  byte left;
  bool still, again, is_nested;
  is_nested = (way == NESTED);
  if
  :: way == LOCKED ->
    lock(heap);
    free_in_place();
    unlock(heap)
  :: else ->
    do
    :: again = false;
      take_remotely();
      if
      :: again
      :: else -> break
      fi
    od
  fi;
  done++
}

proctype SecondFreer() {
  mtype seen = FREE, taking = MOVING;
  byte left;
  bool still, again, is_nested;
  if
  :: is_nested = true
  :: skip
  fi;
  do
  :: again = false;
    take_remotely();
    if
    :: again
    :: else -> break
    fi
  od;
  done++
}

/* Heap::sweep */
inline fold() {
  if
  :: sweep_wanted ->
    sweep_wanted = false;
    atomic {
      if
      :: state == DEFERRED -> become(FREE)
      :: else
      fi
    }
  :: else
  fi
}

proctype Owner(mtype way) {
  mtype seen = FREE, taking = MOVING;
  byte left;
  if
  :: way == AS_OWNER -> free_in_place(); done++
  :: else
  fi;
  if
  :: is_shared -> lock(heap)
  :: else
  fi;
  fold();
  if
  :: cut == X && state == FREE ->
    cut = GONE; /* release_slab */
    assert(state == FREE);
    cut = Y; /* add_slab_slow */
    atomic { assert(state == FREE && !pinned); state = LIVE; accepted = 0 } /* pop */
  :: else
  fi;
  if
  :: is_shared -> unlock(heap)
  :: else
  fi;
  done++
}

/* unpin */
inline unpin() {
  lock(registry);
  pinned = false;
  /* unpin_slot; in any other state this model stops, which is an error */
  do
  :: atomic { state == PINNED -> state = LIVE }
    break
#ifdef PLANT_taken_unseen
  :: atomic { state == PINNED_TAKEN -> skip }
#else
  :: atomic { state == PINNED_TAKEN -> state = REMOTE }
#endif
    break
  :: atomic { state == PINNED_FREED -> state = REMOTE; freed = true }
    break
  od;
  unlock(registry);
  if
  :: freed -> /* free_unpinned_slot, free_unpinned */
    if
    :: is_shared ->
      lock(heap);
      atomic { assert(state == REMOTE); become(FREE) }
      unlock(heap)
    :: else -> defer()
    fi
  :: else
  fi;
  freed = false
}

proctype Pinner() {
  bool freed, got;
  unpin();
  if
  :: true ->
    lock(registry);
    atomic { /* mark_pinned */
      if
      :: cut != GONE && state == LIVE -> state = PINNED; pinned = true; got = true
      :: else
      fi
    }
    unlock(registry);
    if
    :: got -> unpin()
    :: else
    fi
  :: true
  fi;
  done++
}

proctype Audit() {
  /* Nobody else runs any more. */
  atomic {
    done == 2 + frees;
    fold();
    assert(good == 1 && told == frees - 1);
    assert(!pinned);
    assert(cut == Y && state == LIVE && accepted == 0 || cut == X && state == FREE)
  }
}

init {
  atomic {
    if
    :: run Owner(AS_OWNER)
    :: run Owner(ELSEWHERE); run Freer(ELSEWHERE)
    :: run Owner(NESTED); run Freer(NESTED)
    :: is_shared = true; run Owner(LOCKED); run Freer(LOCKED)
    :: is_shared = true; run Owner(NESTED); run Freer(NESTED)
    fi;
    if
    :: run SecondFreer(); frees++
    :: true
    fi;
    run Pinner();
    run Audit()
  }
}
