/* A query walks from the pagemap to a region's facts while regions come, go, are cut and joined, and books are used again.
 *
 * Code: Registry::query, facts_of, holds (src/region/registry.hpp); query_slow, create, create_like, release_book, insert_locked,
 * close_facts, remove_locked, split_locked, resize_locked, set_protection_locked, absorb_locked, FactsWriter, close
 * (src/region/registry.cpp); Pagemap::find (src/region/pagemap.hpp); Pagemap::set (src/region/pagemap.cpp); BookStore::release
 * (src/port/book_store.cpp).
 *
 * Two pages, three books that go round last in, first out, up to three ids. One writer makes any four of: attach (which may
 * meet another region, and then never stands), detach, cut, join, or another write of a fact (protection, draining), of which only the sequence is
 * seen here. Every fact is stored and loaded by itself. One reader asks once, for
 * page 0, page 1 or both. Two pages stand for the levels of the pagemap: what is between root and entry is type-stable and
 * only ever names books of its kind.
 *
 * Claims: the region that the reader is told of stood so, under the address asked, at one moment during the call; and
 * "not found" was true at one moment during the call.
 *
 * Folded: prepare makes room and changes no answer; the books' list is one step, under its lock; the end of a resize and the truth that it makes are one
 * step, as are the last page of a removal and its truth. Left out: mappings that are taken out and put back in the same book, whose sequence stays
 * odd; a generation that is used up (FactsWriter::close takes a new one).
 *
 * Taken for granted: each fact is stored with release after the even sequence and loaded with acquire before the second look,
 * so a reader of a new fact sees the even sequence or a later one. PLANT_fact_before_sequence is what a store that is let past the even
 * sequence would do. Odd sequences do not come back (FactsWriter::first_of); zero, of a book that was given back, is even.
 */
#define CHANGES 4
#define IDS 3
#define NONE 0

/* Books 1, 2, 3. */
short sequence[4];
byte id[4];
byte base[4];
byte size[4];
byte page[2]; /* the pagemap: the book of each page */
byte free_books[3];
byte free_count = 3;
byte generation;

/* Ghosts: what stands at each page, as a code, and what stood at the reader's page since he began. */
#define code(i, b, s) ((i) * 4 + (b) * 2 + (s) - 1)
byte truth[2];
int stood;
bool none_stood;
bool reading;
byte address;
byte pages;

#define holds(c) ((c) != NONE && (pages == 1 || (c) % 4 == code(0, 0, 2)))

inline note() {
  stood = stood | (1 << truth[address]);
  none_stood = none_stood || !holds(truth[address])
}

inline tell(p, c) {
  truth[p] = c;
  if
  :: reading && p == address -> note()
  :: else
  fi
}

/* create. b: the book; from, count: the pages. Left open: the sequence is even until it stands in the pagemap. */
inline create(b, from, count, number) {
  d_step { free_count--; b = free_books[free_count]; free_books[free_count] = 0; generation++ }
#ifdef PLANT_sequence_begins_again
  sequence[b] = 2;
#else
  sequence[b] = generation * 16;
#endif
  base[b] = from;
  size[b] = count;
  id[b] = number;
#ifdef PLANT_closed_at_create
  sequence[b] = sequence[b] + 1
#endif
}

/* close_facts: FactsWriter::close */
inline close_book(b) {
#ifndef PLANT_closed_at_create
  sequence[b] = sequence[b] + 1
#else
  skip
#endif
}

/* release_book: BookStore::release, word by word */
inline destroy(b) {
  sequence[b] = 0;
  id[b] = 0;
  base[b] = 0;
  size[b] = 0;
  atomic { free_books[free_count] = b; free_count++ }
}

/* set_protection_locked, set_draining_locked: FactsWriter, a fact that is not told here, close */
inline write_other_fact(b) {
  sequence[b] = sequence[b] + 1;
  sequence[b] = sequence[b] + 1
}

/* resize_locked: FactsWriter, the fact, close */
inline resize(b, s) {
#ifdef PLANT_fact_before_sequence
  size[b] = s;
  sequence[b] = sequence[b] + 1;
#else
  sequence[b] = sequence[b] + 1;
  size[b] = s;
#endif
  atomic { sequence[b] = sequence[b] + 1; tell(base[b], code(id[b], base[b], s)) }
}

proctype Writer() {
  byte changes, b, other, from, count, number;
  do
  :: changes < CHANGES ->
    changes++;
    if
    :: number < IDS -> /* attach */
      number++;
      if
      :: from = 0; count = 1
      :: from = 1; count = 1
      :: from = 0; count = 2
      fi;
      create(b, from, count, number);
      if /* insert_locked */
      :: page[from] == NONE && page[from + count - 1] == NONE ->
        page[from] = b; /* Pagemap::set */
        page[from + count - 1] = b;
        atomic {
          close_book(b);
          tell(from, code(number, from, count));
          if
          :: count == 2 -> tell(1, code(number, 0, 2))
          :: else
          fi
        }
      :: else -> destroy(b)
      fi
    :: page[0] != NONE || page[1] != NONE -> /* detach */
      if
      :: page[0] != NONE -> b = page[0]
      :: page[1] != NONE -> b = page[1]
      fi;
      from = base[b]; /* remove_locked: Pagemap::set */
      count = size[b];
      atomic { page[from] = NONE; tell(from, NONE) }
      if
      :: count == 2 -> atomic { page[1] = NONE; tell(1, NONE) }
      :: else
      fi;
      destroy(b)
    :: page[0] != NONE -> write_other_fact(page[0])
    :: page[0] != NONE && page[0] == page[1] -> /* cut: split_locked */
      other = page[0];
      number++;
      create(b, 1, 1, number);
      number--;
      id[b] = id[other]; /* create_like */
      page[1] = b;
      atomic { close_book(b); tell(1, code(id[b], 1, 1)) }
      resize(other, 1)
    :: page[0] != page[1] && page[0] != NONE && page[1] != NONE && id[page[0]] == id[page[1]] -> /* join: absorb_locked */
      b = page[0];
      other = page[1];
      resize(b, 2);
      atomic { page[1] = b; tell(1, code(id[b], 0, 2)) }
      destroy(other)
    fi;
    d_step { b = 0; other = 0; from = 0; count = 0 }
  :: else -> break
  od
}

proctype Reader() {
  byte b, i, from, count;
  bool slow;
  short before;
  atomic {
    if
    :: address = 0; pages = 1
    :: address = 1; pages = 1
    :: address = 0; pages = 2
    fi;
    reading = true;
    note()
  }
  do
  :: b = page[address]; /* find */
    if
    :: b == NONE ->
      if
      :: !slow -> goto again /* query asks query_slow, which looks again */
      :: slow -> goto not_found
      fi
    :: else
    fi;
    before = sequence[b];
    if
#ifdef PLANT_zero_is_stable
    :: before != 0 && before % 2 == 0 -> goto again
#else
    :: before % 2 == 0 -> goto again
#endif
    :: else
    fi;
    i = id[b]; /* facts_of */
    from = base[b];
    count = size[b];
#ifndef PLANT_no_second_look
    if
    :: sequence[b] != before -> goto again
    :: else
    fi;
#endif
    if /* holds */
    :: address >= from && address < from + count && address + pages <= from + count -> break
    :: else
    fi;
    if
    :: !slow -> goto again
    :: slow
    fi;
    if
    :: address >= from && address < from + count -> goto not_found
    :: else
    fi;
    if
    :: page[address] == b ->
      if
      :: sequence[b] == before -> goto not_found
      :: else
      fi
    :: else
    fi;
again:
    slow = true; /* query_slow, from the start */
    d_step { b = 0; i = 0; from = 0; count = 0; before = 0 }
  od;
  assert(i != 0 && (stood & (1 << code(i, from, count))) != 0);
  goto done;
not_found:
  assert(none_stood);
done:
  skip
}

init {
  atomic {
    free_books[0] = 3;
    free_books[1] = 2;
    free_books[2] = 1;
    run Writer();
    run Reader()
  }
}
