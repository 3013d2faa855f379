/* Under sanitizers, at a tenth of the speed, tests leave out what they go through without them too and what brings no
 * other code to run. */
#ifndef TESTS_SANITIZED_H
#define TESTS_SANITIZED_H

#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

#endif
