/* A free finds its slab by the flat map, without a lock and without order beyond acquire and release.
 *
 * Code: SlabMap::find (src/page/slab_map.hpp); enter, cover (src/page/slab_map.cpp); PagePool::allocate_slab, set_units_locked,
 * publish_slab, free_slab, add (src/page/page_pool.cpp); Heap::add_slab_slow, release_slab, adopt_slow, hand_over_slow (src/heap/heap.cpp);
 * Slab::open (src/slab/slab.cpp); AllocatorCore::deallocate (src/heap/core_blocks.cpp).
 *
 * One slab book, two grains, two windows: the first one covers grain 0, the second one both. Two threads make the slab in any free grain,
 * give it back, hand it to the orphans, adopt it, or extend the window, three things each; the first one also frees an address in either
 * grain, and may be stopped between its loads.
 *
 * Claim (docs/adr/0009): when the slab that a free finds has this thread for its owner, the address lies in that slab.
 *
 * Folded: the fields of the book (base, size of a slot) are one plain word, grain, for its reader is its writer, or got the slab under the lock of the
 * orphans; the zeroes of BookStore::release, for the owner is zero already. Under the lock of the pages the window is loaded with acquire here and relaxed in the
 * code: all its stores are made under that lock. Left out: the units' entries, by which a free goes on when the map says nothing (find_slab_in).
 *
 * Memory: not sequentially consistent. Each location keeps all its stores in order; a load may take any of them that is not older
 * than what its thread has seen. What a thread has seen goes with a release store, or a lock, to whoever acquires it. So every
 * reordering that release and acquire allow is searched, on any processor.
 */
#define THINGS 3
#define HISTORY 7

/* Locations. */
#define WINDOW 0
#define OWNER 1
#define ENTRY(w, g) (2 + (w) * 2 + (g))
#define LOCATIONS 6
/* Owners: 0 none, 1 and 2 the threads' heaps. */
#define ORPHANS 3
/* Locks. */
#define PAGES 0
#define BOOKS 1
#define HANDS 2

byte value[42];    /* by location and number of the store */
byte stores[6];    /* how many after the first */
byte seen_by[252]; /* by location, number and location: what its store publishes */
byte seen[18];     /* by thread (1, 2) and location */
byte lock_seen[18];
bool locked[3];

/* Guarded by the locks of pages and of books. */
bool taken[2];
bool book_used;
byte grain;

#define at(l, n) ((l) * HISTORY + (n))
#define latest(l) value[at(l, stores[l])]

inline lock(which) {
  atomic {
    !locked[which];
    locked[which] = true;
    d_step {
      l = 0;
      do
      :: l < LOCATIONS && lock_seen[which * 6 + l] > seen[me * 6 + l] -> seen[me * 6 + l] = lock_seen[which * 6 + l]; l++
      :: l < LOCATIONS && lock_seen[which * 6 + l] <= seen[me * 6 + l] -> l++
      :: l == LOCATIONS -> break
      od;
      l = 0
    }
  }
}

inline unlock(which) {
  d_step {
    do
    :: l < LOCATIONS -> lock_seen[which * 6 + l] = seen[me * 6 + l]; l++
    :: l == LOCATIONS -> break
    od;
    l = 0;
    locked[which] = false
  }
}

inline store(where, what, release) {
  d_step {
    n = stores[where] + 1;
    assert(n < HISTORY);
    stores[where] = n;
    value[at(where, n)] = what;
    seen[me * 6 + where] = n;
    do
    :: l < LOCATIONS && release -> seen_by[at(where, n) * 6 + l] = seen[me * 6 + l]; l++
    :: l < LOCATIONS && !release -> l++
    :: l == LOCATIONS -> break
    od;
    l = 0;
    n = 0
  }
}

/* With acquire, into got. */
inline load(where) {
  atomic {
    n = seen[me * 6 + where];
    do
    :: n < stores[where] -> n++
    :: break
    od;
    d_step {
      got = value[at(where, n)];
      seen[me * 6 + where] = n;
      do
      :: l < LOCATIONS && seen_by[at(where, n) * 6 + l] > seen[me * 6 + l] ->
        seen[me * 6 + l] = seen_by[at(where, n) * 6 + l];
        l++
      :: l < LOCATIONS && seen_by[at(where, n) * 6 + l] <= seen[me * 6 + l] -> l++
      :: l == LOCATIONS -> break
      od;
      l = 0;
      n = 0
    }
  }
}

#define covers(w, g) ((w) == 1 || (g) == 0)

/* set_units_locked: enter. Under the lock of the pages. */
inline enter(g, what) {
  load(WINDOW);
  assert(got == latest(WINDOW));
  if
  :: covers(got, g) -> store(ENTRY(got, g), what, true)
  :: else
  fi;
  got = 0
}

/* add_slab_slow */
inline make_slab() {
  lock(PAGES); /* allocate_slab */
  if
  :: !taken[0] -> g = 0
  :: !taken[1] -> g = 1
  :: taken[0] && taken[1] -> g = 2
  fi;
  if
  :: g < 2 -> taken[g] = true
  :: else
  fi;
  unlock(PAGES);
  if
  :: g < 2 ->
    lock(BOOKS); /* BookStore::allocate */
    if
    :: !book_used -> book_used = true; has = true
    :: else
    fi;
    unlock(BOOKS);
    if
    :: has ->
      grain = g; /* open */
      store(OWNER, me, true);
      lock(PAGES); /* publish_slab */
      enter(g, 1);
      unlock(PAGES)
    :: else ->
      lock(PAGES); /* free_slab */
      enter(g, 0);
      taken[g] = false;
      unlock(PAGES)
    fi
  :: else
  fi;
  g = 0
}

/* release_slab */
inline give_slab_back() {
  has = false;
  g = grain;
  store(OWNER, 0, true);
#ifndef PLANT_book_before_map
  lock(PAGES); /* free_slab */
#ifndef PLANT_not_cleared
  enter(g, 0);
#endif
  taken[g] = false;
  unlock(PAGES);
#endif
  lock(BOOKS); /* BookStore::release */
  book_used = false;
  unlock(BOOKS);
#ifdef PLANT_book_before_map
  lock(PAGES);
  enter(g, 0);
  taken[g] = false;
  unlock(PAGES);
#endif
  g = 0
}

/* add: cover */
inline extend() {
#ifndef PLANT_copied_without_lock
  lock(PAGES);
#endif
  load(WINDOW);
  if
  :: got == 0 ->
    load(ENTRY(0, 0));
    store(ENTRY(1, 0), got, false);
    store(WINDOW, 1, true)
  :: else
  fi;
  got = 0;
#ifndef PLANT_copied_without_lock
  unlock(PAGES)
#endif
}

inline one_thing() {
  if
  :: !has -> make_slab()
  :: has -> give_slab_back()
  :: has -> /* to the orphans: hand_over_slow */
    lock(HANDS);
    has = false;
    store(OWNER, ORPHANS, true);
    unlock(HANDS)
  :: !has && latest(OWNER) == ORPHANS -> /* from them: adopt_slow */
    lock(HANDS);
    if
    :: latest(OWNER) == ORPHANS -> store(OWNER, me, true); has = true
    :: else
    fi;
    unlock(HANDS)
  :: latest(WINDOW) == 0 -> extend()
  fi
}

proctype Reader() {
  byte things, l, n, g, got;
  bool has;
  byte me = 1;
  do
  :: things < THINGS -> things++; one_thing()
  :: true -> break
  od;
  /* deallocate of an address in grain g */
  if
  :: g = 0
  :: g = 1
  fi;
  load(WINDOW); /* find */
  if
  :: covers(got, g) -> load(ENTRY(got, g))
  :: else -> got = 0
  fi;
  if
  :: got != 0 ->
    load(OWNER);
    assert(got != me || (has && grain == g))
  :: else
  fi
}

proctype Other() {
  byte things, l, n, g, got;
  bool has;
  byte me = 2;
  do
  :: things < THINGS -> things++; one_thing()
  :: else -> break
  od
}

init {
  atomic {
    run Reader();
    run Other()
  }
}
