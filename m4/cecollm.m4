# SPDX-License-Identifier: Apache-2.0
# cecollm.m4 - the few checks that configure.ac repeats.

# CE_LIB(VARIABLE, PKG-CONFIG MODULES, NAME FOR PEOPLE, DEBIAN PACKAGE)
# Find a library or stop with the package to install.
AC_DEFUN([CE_LIB], [
  PKG_CHECK_MODULES([$1], [$2], [],
    [AC_MSG_ERROR([$3 is missing; on Debian: apt install $4])])
])

# CE_CC_TRY(WHAT, FLAGS, CACHE NAME, PROLOGUE, BODY, IF YES, IF NO)
# Does the compiler take FLAGS and compile the program with them, silently?
AC_DEFUN([CE_CC_TRY], [
  AC_CACHE_CHECK([$1], [ce_cv_$3], [
    ce_save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS $2 -Werror"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([$4], [$5])], [ce_cv_$3=yes], [ce_cv_$3=no])
    CFLAGS=$ce_save_CFLAGS
  ])
  AS_IF([test "$ce_cv_$3" = yes], [$6], [$7])
])

# CE_LINK_TRY(WHAT, FLAGS, CACHE NAME, IF YES, IF NO)
AC_DEFUN([CE_LINK_TRY], [
  AC_CACHE_CHECK([$1], [ce_cv_$3], [
    ce_save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS $2"
    AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])], [ce_cv_$3=yes], [ce_cv_$3=no])
    CFLAGS=$ce_save_CFLAGS
  ])
  AS_IF([test "$ce_cv_$3" = yes], [$4], [$5])
])
