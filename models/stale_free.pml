/* A free of a block whose slab is given back and cut anew meanwhile, in the same book.
 *
 * Code: AllocatorCore::take_remotely, confirm_mark (src/heap/core_frees.cpp); Heap::give_back,
 * release_slab, add_slab_slow, take_back, defer (src/heap/heap.cpp); Slab::open, take (src/slab/slab.cpp);
 * BookStore::release (src/port/book_store.cpp).
 *
 * One book with one slot. Cut one way the slot starts at address X, the other way at Y. The owner allocates, frees, gives
 * the slab back and cuts anew; two strangers free X, once each, however late.
 *
 * Claims: a slab goes back, and a book is opened, only with every state kFree, and what the slab counts as free is free
 * (else Slab::take would search for ever); a block is put into a place once, after a free; none is lost when all is quiet.
 *
 * KNOWN_blame: a stale free of X that meets Y marks it kRemote for a moment. When Y's holder frees it at that moment, he is
 * told of a double free that is not his, and Y stays live. It takes a double free elsewhere to get there.
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
byte posted;
byte done;

bool placed;
byte effective;

inline place() {
  assert(!placed);
  assert(effective > 0);
  placed = true
}

inline take_back() {
  posted--;
  if
  :: atomic { cut == X && state == REMOTE -> skip }
    atomic { state = CACHED; place(); on_stack = true }
  :: atomic { !(cut == X && state == REMOTE) -> skip } /* told */
  fi
}

inline fold() {
  do
  :: posted > 0 -> take_back()
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

inline release_if_empty() {
  if
  :: owned && free_slots == 1 ->
    owned = false;
    cut = GONE;
    /* With the last slot free nobody may have left a mark. */
    assert(state == FREE);
    state = FREE;
    free_slots = 0
  :: else
  fi
}

proctype Owner() {
  byte calls;
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
        :: !owned ->
          assert(state == FREE);
          free_slots = 1;
          owned = true;
          placed = true;
          if
          :: cut = X
          :: cut = Y
          fi
        :: else
        fi;
        if
        :: !on_stack && free_slots == 1 ->
          /* Slab::take searches until it has found as many as the slab counts. */
          assert(state == FREE);
          atomic { state = CACHED; free_slots = 0; on_stack = true }
        :: else
        fi
      :: else
      fi;
      atomic {
        if
        :: on_stack -> on_stack = false; placed = false; effective = 0; state = LIVE; has = true
        :: else
        fi
      }
    :: has -> /* the holder frees */
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
    :: true -> /* flush */
      fold();
      if
      :: on_stack -> atomic { on_stack = false; state = FREE; free_slots = 1 }
      :: else
      fi;
      release_if_empty()
    fi
  :: else -> break
  od;
  done == 2;
  fold();
  assert(state != REMOTE && state != DEFERRED);
  assert(!owned || placed == (state != LIVE))
}

proctype Stranger() {
  bool asked;
  if
  :: cut == X ->
    if
    :: atomic { state == LIVE -> state = REMOTE; effective++ }
      /* confirm_mark */
      if
#ifndef PLANT_no_second_look
      :: cut != X ->
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
      :: cut == X ->
        if
        :: posted++
        :: atomic {
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
      :: cut != X -> posted++
#endif
      fi
    :: atomic { state != LIVE -> skip }
    fi
  :: cut != X
  fi;
  done++
}

init {
  atomic {
    run Owner();
    run Stranger();
    run Stranger()
  }
}
