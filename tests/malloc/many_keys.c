/* A library that is preloaded behind malloc and comes before it: it makes so many keys that
 * pthread_setspecific of malloc's own key has to allocate. */
#include <pthread.h>

__attribute__((constructor)) static void make_keys(void) {
  pthread_key_t key;
  for (int i = 0; i < 40; ++i) pthread_key_create(&key, 0);
}
