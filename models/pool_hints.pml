/* Hints of slots whose slabs go and come: by reclaim, by revoke and the next attach, beside detaches that take their mark back.
 *
 * Code: PoolHeap::pop_hint, push_hint, settled, is_marked, born (src/heap/pool_heap.hpp); mark, join, flush_hints, slab_of_hint,
 * add_slab, take, reclaim, take_slabs_out (src/heap/pool_heap.cpp); Heap::release_book (src/heap/heap.cpp); Pool::close, open, provide, live_from, unmark, settle,
 * leave, may_be_hinted, bury, release_buried (src/heap/pool.cpp); AttachedPools::give (src/heap/attached_pools.hpp); ask, finish_give,
 * allocate_in, free_live, keep (src/heap/pool_blocks.cpp); detach (src/heap/attached_pools.cpp); BookStore::release
 * (src/port/book_store.cpp).
 *
 * Two places for slabs of one slot each, and three books. Two threads keep a heap of the pool: one has a hint, one holds the other block. They
 * take, give, leave and join. A third one keeps nothing; it reclaims and cuts a slab anew, asks whether the pool is busy, or revokes it
 * and attaches it again. Whose slab it is stays out: any heap takes from any slab, as adoption has it.
 *
 * Claims: a hint is followed only into the book that it was made for, and so is what give found; nothing is handed out that has a
 * holder, or of a pool that has gone; when every thread has left, no book is buried any more.
 *
 * PLANT_unburied releases each book with its slab. PLANT_hints_kept settles without dropping the hints. PLANT_unmark_taken takes the mark of a
 * reclaim back; PLANT_unmark_all takes back earlier marks, too. PLANT_found_late has give find the slab after it saw that the heap serves.
 * That may_be_hinted compares `born` is no matter of safety: without it books stay buried longer.
 *
 * Taken for granted: the lock of the pool; a compare-and-swap of a state acts on its latest value; marks_ does not wrap. Left out: what pool_cache
 * has; that lists_ is held, too; pages; where `born` stands (in a line before the book: a stale free may take what is behind the states of a
 * slab for one).
 */
#define PLACES 2
#define BOOKS 3
#define HEAPS 2
#define ROOM 2
#define NONE 255
#define CALLS 3
#define CHANGES 2

mtype = { FREE, LIVE, CACHED };
mtype = { UNUSED, STANDS, BURIED };

bool pool;
byte id = 1; /* Pool::id */
byte marks;

/* By book. */
mtype state[BOOKS];
mtype use[BOOKS];
byte born[BOOKS];
byte place_of[BOOKS];

byte unit[PLACES]; /* the region's entry: a book + 1 */

/* By heap. */
bool serves[HEAPS]; /* not stopped_ */
byte marked_at[HEAPS];
bool joined[HEAPS];

/* Ghosts. */
byte held[PLACES]; /* the id of the pool that its holder got it from; 0: nobody has it */
byte cut[BOOKS];   /* counts the slabs of the book */
byte done;

#define lock(which) atomic { !which -> which = true }
#define unlock(which) which = false

#define is_hinted_by(h, b) (joined[h] && marked_at[h] != 0 /* is_marked */ && born[b] < marked_at[h])
#define may_be_hinted(b) (is_hinted_by(0, b) || is_hinted_by(1, b))

inline release_book(b) {
  use[b] = UNUSED;
  state[b] = FREE; /* BookStore::release */
  born[b] = 0;
  place_of[b] = 0;
  cut[b]++
}

inline bury(b) {
#ifdef PLANT_unburied
  release_book(b)
#else
  if
  :: may_be_hinted(b) -> use[b] = BURIED
  :: else -> release_book(b)
  fi
#endif
}

inline release_buried() {
  d_step {
    book = 0;
    do
    :: book < BOOKS ->
      if
      :: use[book] == BURIED && !may_be_hinted(book) -> release_book(book)
      :: else
      fi;
      book++
    :: else -> break
    od;
    book = 0
  }
}

/* Pool::mark */
inline mark_heap(h) {
  atomic {
    if
    :: joined[h] ->
      if
      :: marked_at[h] == 0 -> marked_at[h] = marks
      :: else
      fi;
      serves[h] = false
    :: else
    fi
  }
}
inline mark() {
  marks++;
  mark_heap(0);
  mark_heap(1)
}

/* unmark, settled */
inline unmark_heap(h) {
  atomic {
    if
#ifdef PLANT_unmark_all
    :: joined[h] -> marked_at[h] = 0; serves[h] = true
#else
    :: joined[h] && marked_at[h] == marks -> marked_at[h] = 0; serves[h] = true
#endif
    :: else
    fi
  }
}
inline unmark() {
  unmark_heap(0);
  unmark_heap(1)
}

/* take_slabs_out, then bury; all: close */
inline take_slabs_out(all) {
  d_step {
    book = 0;
    do
    :: book < BOOKS ->
      if
      :: use[book] == STANDS && (all || state[book] == FREE) -> unit[place_of[book]] = 0; bury(book)
      :: else
      fi;
      book++
    :: else -> break
    od;
    book = 0
  }
}

inline take_back(b) {
  atomic {
    if
    :: use[b] == STANDS && state[b] == CACHED -> state[b] = FREE
    :: else
    fi
  }
}

/* Pool::reclaim, up to settle. */
inline reclaim() {
  mark();
  take_back(0);
  take_back(1);
  take_back(2);
  take_slabs_out(false);
#ifdef PLANT_unmark_taken
  unmark()
#endif
}

/* provide: a slab with a free slot, into book; NONE: there is none. */
inline provide() {
  d_step {
    book = 0;
    do
    :: book < BOOKS && use[book] == STANDS && state[book] == FREE -> break
    :: book < BOOKS && !(use[book] == STANDS && state[book] == FREE) -> book++
    :: else -> book = NONE; break
    od;
    if
    :: book == NONE && (unit[0] == 0 || unit[1] == 0) -> /* add_slab */
      book = 0;
      do
      :: book < BOOKS && use[book] == UNUSED -> break
      :: book < BOOKS && use[book] != UNUSED -> book++
      :: else -> book = NONE; break
      od;
      if
      :: book != NONE ->
        use[book] = STANDS;
        born[book] = marks;
        place_of[book] = (unit[0] == 0 -> 0 : 1);
        unit[place_of[book]] = book + 1
      :: else
      fi
    :: else
    fi
  }
}

inline hand_out(place) {
  assert(id == my_id);
  assert(held[place] == 0);
  held[place] = id;
  mine = place
}

inline take() {
  if
  :: book != NONE ->
    state[book] = CACHED;
    atomic {
      if
      :: state[book] == CACHED -> state[book] = LIVE; hand_out(place_of[book])
      :: else /* a hint that is out of date was quicker */
      fi
    }
  :: book == NONE
  fi;
  book = 0
}

/* ---- A thread with a heap ---- */

inline push_hint(b, g, place) { d_step { hint_book[n] = b; hint_cut[n] = g; hint_place[n] = place; n++ } }

inline drop_hint() { d_step { n--; hint_book[n] = 0; hint_cut[n] = 0; hint_place[n] = 0 } }

#define slab_of_hint(i) (unit[hint_place[i]] == hint_book[i] + 1)

inline flush_hints() {
  do
  :: n > 0 ->
    if
    :: id == my_id && slab_of_hint(n - 1) ->
      assert(cut[hint_book[n - 1]] == hint_cut[n - 1]);
      take_back(hint_book[n - 1])
    :: id != my_id || !slab_of_hint(n - 1)
    fi;
    drop_hint()
  :: n == 0 -> break
  od
}

inline settle() {
#ifndef PLANT_hints_kept
  flush_hints();
#endif
  atomic { marked_at[me] = 0; serves[me] = true } /* settled */
  release_buried()
}

inline settle_if_marked() {
  if
  :: marked_at[me] != 0 -> settle()
  :: marked_at[me] == 0
  fi
}

inline pop_hint() {
  do
  :: n == 0 || mine != NONE -> break
  :: n > 0 && mine == NONE ->
    atomic {
      assert(cut[hint_book[n - 1]] == hint_cut[n - 1]);
      place = hint_place[n - 1];
      taken = (state[hint_book[n - 1]] == CACHED);
      if
      :: taken -> state[hint_book[n - 1]] = LIVE
      :: else
      fi;
      drop_hint()
    }
    if
    :: taken ->
      if
      :: atomic { serves[me] -> hand_out(place) }
      :: !serves[me] -> /* ask */
        lock(pool);
        if
        :: id == my_id ->
          settle_if_marked();
          hand_out(place)
        :: id != my_id -> n_gone = true
        fi;
        unlock(pool);
        if
        :: n_gone -> n_gone = false; break
        :: !n_gone
        fi
      fi
    :: !taken
    fi
  od;
  atomic { taken = false; place = 0 }
}

inline allocate() {
  pop_hint();
  if
  :: mine == NONE ->
    lock(pool); /* allocate_in */
    if
    :: id == my_id ->
      settle_if_marked();
      provide();
      take();
      if
      :: mine == NONE -> /* may_reclaim says yes */
        reclaim();
        settle();
        provide();
        take()
      :: mine == NONE
      :: mine != NONE
      fi;
      if
      :: mine != NONE && n == 0 -> /* fill_stack */
        provide();
        atomic {
          if
          :: book != NONE -> state[book] = CACHED; push_hint(book, cut[book], place_of[book])
          :: else
          fi;
          book = 0
        }
      :: mine == NONE || n != 0
      fi
    :: id != my_id
    fi;
    unlock(pool)
  :: mine != NONE
  fi
}

inline give() {
  ok = false;
#ifdef PLANT_found_late
  if
  :: serves[me] && n < ROOM ->
    atomic { found = unit[mine]; its_cut = (found != 0 -> cut[found - 1] : 0) } /* by Entry::units */
#else
  atomic { found = unit[mine]; its_cut = (found != 0 -> cut[found - 1] : 0) } /* by Entry::units */
  if
  :: serves[me] && n < ROOM ->
#endif
    if
    :: found != 0 ->
      assert(cut[found - 1] == its_cut); /* size_class, find_state */
      atomic {
        assert(cut[found - 1] == its_cut);
        if
        :: state[found - 1] == LIVE ->
          state[found - 1] = CACHED;
          ok = true;
          if
          :: held[mine] == my_id -> held[mine] = 0
          :: else /* revoked */
          fi
        :: else
        fi
      }
      if
      :: ok ->
        push_hint(found - 1, its_cut, mine);
        if
        :: serves[me]
        :: !serves[me] -> /* finish_give */
          lock(pool);
          if
          :: id == my_id -> settle_if_marked()
          :: id != my_id
          fi;
          unlock(pool)
        fi
      :: !ok
      fi
    :: found == 0
    fi
  :: !serves[me] || n == ROOM
  fi;
  if
  :: !ok -> /* free_live */
    lock(pool);
    if
    :: id == my_id ->
      settle_if_marked();
      atomic { assert(state[unit[mine] - 1] == LIVE && held[mine] == id); state[unit[mine] - 1] = FREE; held[mine] = 0 }
    :: id != my_id
    fi;
    unlock(pool)
  :: ok
  fi;
  atomic { ok = false; found = 0; its_cut = 0; mine = NONE }
}

inline leave() {
  lock(pool);
  flush_hints();
  atomic { joined[me] = false; serves[me] = false; marked_at[me] = 0 }
  release_buried();
  unlock(pool)
}

proctype Keeper(byte me) {
  byte my_id = 1;
  byte hint_book[ROOM], hint_cut[ROOM], hint_place[ROOM];
  byte n, book, place, found, its_cut, calls;
  byte mine = NONE;
  bool ok, taken, n_gone;
  if
  :: me == 0 -> push_hint(0, 0, 0)
  :: me == 1 -> mine = 1
  fi;
  do
  :: calls == CALLS -> break
  :: calls < CALLS && mine == NONE -> allocate(); calls++
  :: calls < CALLS && mine != NONE -> give(); calls++
  :: calls < CALLS && id != my_id -> /* tidy; keep */
    leave();
    lock(pool);
    atomic { my_id = id; joined[me] = true; marked_at[me] = 0; serves[me] = true; mine = NONE } /* join */
    unlock(pool);
    calls++
  od;
  leave();
  done++
}

/* ---- The third ---- */

inline close() {
  take_slabs_out(true);
  d_step { id++; held[0] = 0; held[1] = 0 } /* and open, for the next attach */
}

/* Pool::live_from, with a look at each state; into live. */
inline live_from() {
  live = unit[0] != 0 && state[unit[0] - 1] == LIVE;
  live = live || (unit[1] != 0 && state[unit[1] - 1] == LIVE)
}

proctype Changer() {
  byte changes, book;
  bool live;
  do
  :: changes == CHANGES -> break
  :: changes < CHANGES ->
    lock(pool);
    if
    :: reclaim(); provide(); book = 0
    :: mark(); /* detach, kBusy */
      live_from();
      if
      :: live -> unmark()
      :: !live -> assert(held[0] == 0 && held[1] == 0); close()
      fi;
      live = false
    :: mark(); /* the same, and what it waits for has not ended (door); another look follows */
    :: mark(); close() /* kRevoke */
    fi;
    unlock(pool);
    changes++
  od;
  done++
}

proctype Audit() {
  done == 3;
  assert(use[0] != BURIED && use[1] != BURIED && use[2] != BURIED)
}

init {
  d_step {
    state[0] = CACHED;
    state[1] = LIVE;
    state[2] = FREE;
    use[0] = STANDS;
    use[1] = STANDS;
    use[2] = UNUSED;
    place_of[1] = 1;
    unit[0] = 1;
    unit[1] = 2;
    held[1] = 1;
    joined[0] = true;
    joined[1] = true;
    serves[0] = true;
    serves[1] = true
  }
  atomic {
    run Keeper(0);
    run Keeper(1);
    run Changer();
    run Audit()
  }
}
