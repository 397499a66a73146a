/* SPDX-License-Identifier: MIT */
/* seals: what the kernel holds everybody to, of a memfd. */
#ifndef VMM_CORE_SEALS_H
#define VMM_CORE_SEALS_H

#include <fcntl.h>

/* Nobody can write it or change its length, ever. */
#define SEALS_FROZEN (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
/* It can be written, and sealed for good. */
#define SEALS_OWNED (F_SEAL_SHRINK | F_SEAL_GROW)
/* Since Linux 6.3 a system's policy may add it to every memfd; it says that the
 * file's mode has no x bits and is no business of ours. */
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

#endif /* VMM_CORE_SEALS_H */
