/* A free of a block whose slab is given back and cut anew meanwhile, in the same book.
 *
 * Code: AllocatorCore::take_remotely, is_still (src/heap/core_frees.cpp); try_take (src/heap/free_steps.cpp); Heap::give_back (src/heap/heap.hpp);
 * release_slab, add_slab_slow, take_back, fold_slow, sweep_slab, flush_slow, defer (src/heap/heap.cpp); Slab::open, take (src/slab/slab.cpp);
 * BookStore::release (src/port/book_store.cpp).
 *
 * One book with one slot. Cut one way the slot starts at address X, the other way at Y. The owner allocates, frees, gives
 * the slab back and cuts anew; two strangers free X, once each, however late. A holder may give its block to a thread that frees it.
 *
 * Claims: a slab goes back, and a book is opened, only with every state kFree, and what the slab counts as free is free
 * (else Slab::take would search for ever); a block is put into a place once, after a free; none is lost when all is quiet.
 *
 * KNOWN_blame: a stale free of X that meets Y marks it kRemote for a moment. When Y's holder frees it at that moment, he is
 * told of a double free that is not his, and Y stays live. It takes a double free elsewhere to get there.
 *
 * KNOWN_mark_taken_off: a stranger frees X at the moment at which its owner does, so the owner's store goes over its mark. The slab is cut
 * anew, and the holder of Y frees it from another thread. The stranger sees that X is gone and takes off what it thinks its own mark: Y is live
 * again, its free is told as a double free, and Y is not used again. It takes a double free to get there, too.
 *
 * Folded: find_slot is one step, for the map says nothing of a slab whose book is not filled in, and a late look at a book that is being reused is
 * followed by the second one (is_still), with a mark that holds the slab in place; what only the owner reads and writes (stack, free_slots) goes with
 * the step before it.
 *
 * Taken for granted: release of the zeroes in BookStore::release, and the locks of pages and books, order the end of one life
 * before the beginning of the next; a compare-and-swap of a state acts on its latest value.
 */
#define X 0
#define Y 1
#define GONE 2
#define OWNER_CALLS 6

mtype = { FREE, LIVE, CACHED, REMOTE, DEFERRED };

mtype state = FREE; /* zero: the book comes so from the store */
byte cut = GONE;    /* which address the slot has; published by the map */
bool owned;         /* Slab::owner */
byte free_slots;
bool on_stack;
bool sweep_wanted;
byte posted[2]; /* in batches, by the address that was freed */
bool handed; /* to a thread that frees it, once */
byte handed_at;
bool helped;
byte done;

bool placed;
byte effective;
bool freed_well; /* by the thread to which its holder gave it */

inline place() {
  assert(!placed);
  assert(effective > 0);
  placed = true
}

/* take_back: find_slot, the state, push. Only this thread cuts the slab, so the first two are one step. */
inline take_back(at) {
  posted[at]--;
  if
  :: atomic { cut == at && state == REMOTE -> skip }
    atomic { state = CACHED; place(); on_stack = true }
  :: atomic { !(cut == at && state == REMOTE) -> skip } /* told */
  fi
}

/* fold_slow; sweep_slab, which gives back what is kDeferred */
inline fold() {
  do
  :: posted[X] > 0 -> take_back(X)
  :: posted[X] == 0 && posted[Y] > 0 -> take_back(Y)
  :: else -> break
  od;
  if
  :: sweep_wanted ->
    sweep_wanted = false;
    if
    :: state == DEFERRED -> atomic { state = FREE; place(); free_slots++ }
    :: else
    fi
  :: else
  fi
}

/* release_slab */
inline release_if_empty() {
  if
  :: owned && free_slots == 1 ->
    owned = false;
    cut = GONE; /* PagePool::free_slab */
    /* With the last slot free nobody may have left a mark. */
    assert(state == FREE);
    state = FREE; /* BookStore::release: zero, word by word */
    free_slots = 0
  :: else
  fi
}

proctype Owner() {
  byte calls, block;
  bool has = false;
  do
  :: calls < OWNER_CALLS ->
    calls++;
    if
    :: true -> /* allocate */
      if
      :: !on_stack ->
        fold();
        if
        :: !owned -> /* add_slab_slow */
          assert(state == FREE);
          free_slots = 1; /* open: the states came as zeroes */
          owned = true;
          placed = true;
          if /* PagePool::publish_slab */
          :: cut = X
          :: cut = Y
          fi
        :: else
        fi;
        if
        :: !on_stack && free_slots == 1 ->
          /* take, by refill_slow: it searches until it has found as many as the slab counts. */
          assert(state == FREE);
          atomic { state = CACHED; free_slots = 0; on_stack = true }
        :: else
        fi
      :: else
      fi;
      atomic {
        if
        :: on_stack -> on_stack = false; placed = false; effective = 0; state = LIVE; has = true; block = cut; freed_well = false /* pop */
        :: else
        fi
      }
    :: has && !handed -> /* the holder gives the block to another thread */
      has = false;
      atomic { handed_at = block; handed = true }
    :: has -> /* the holder frees: the look, then push */
      if
      :: atomic { state == LIVE -> effective++; has = false }
        atomic { state = CACHED; place(); on_stack = true }
      :: atomic { state != LIVE ->
#ifdef KNOWN_blame
          assert(cut == X);
#endif
          has = false
        }
      fi
    :: true -> /* flush_slow; give_back */
      fold();
      if
      :: on_stack -> atomic { on_stack = false; state = FREE; free_slots = 1 }
      :: else
      fi;
      release_if_empty()
    fi
  :: else -> break
  od;
  done == 2 && (!handed || helped);
  fold();
  assert(state != REMOTE && state != DEFERRED);
  assert(!owned || placed == (state != LIVE));
#ifdef KNOWN_mark_taken_off
  assert(!owned || !freed_well || placed)
#endif
}

/* take_remotely, then the way to the owner */
inline free_elsewhere(at, its) {
  if
  :: cut == at -> /* find_slot */
    if
    :: atomic { state == LIVE -> state = REMOTE; effective++; freed_well = (freed_well || cut == handed_at && its) } /* try_take */
      /* is_still */
      if
#ifndef PLANT_no_second_look
      :: cut != at ->
#ifdef PLANT_mark_stored
        state = LIVE
#else
        atomic {
          if
          :: state == REMOTE -> state = LIVE
          :: else
          fi
        }
#endif
#endif
      :: cut == at ->
        if
        :: posted[at]++ /* a batch */
        :: atomic { /* defer */
            if
            :: state == REMOTE -> state = DEFERRED; asked = true
            :: else
            fi
          }
          if
          :: asked -> sweep_wanted = true
          :: else
          fi
        fi
#ifdef PLANT_no_second_look
      :: cut != at -> posted[at]++
#endif
      fi
    :: atomic { state != LIVE -> skip }
    fi
  :: cut != at
  fi
}

proctype Helper() {
  bool asked;
end:
  handed;
  free_elsewhere(handed_at, true);
  helped = true
}

proctype Stranger() {
  bool asked;
  free_elsewhere(X, false);
  done++
}

init {
  atomic {
    run Owner();
    run Stranger();
    run Stranger();
    run Helper()
  }
}
