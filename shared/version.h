/* SPDX-License-Identifier: MIT */
/* version: of the programs, the library and the protocol's service. */
#ifndef SHARED_VERSION_H
#define SHARED_VERSION_H

#define FIRN_VERSION "0.1.0"

#endif /* SHARED_VERSION_H */
