/* Foundation.h - the few classes that a Metal host program needs, on GCC's Objective-C runtime.
 *
 * Reference counting is manual and real: releasing once too often aborts, and what is left alive can be counted.
 * Only selectors that Apple's Foundation has; sim... names are for tests. */
#ifndef DS4_METALSIM_FOUNDATION_H
#define DS4_METALSIM_FOUNDATION_H

#include <limits.h>
#include <objc/objc.h>
#include <objc/runtime.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef unsigned long NSUInteger;
typedef long NSInteger;
typedef double CFTimeInterval;

#define NS_ENUM(t, n) enum n : t n; enum n : t
#define API_AVAILABLE(...)

@protocol NSObject
- (id)retain;
- (oneway void)release;
- (id)autorelease;
- (NSUInteger)retainCount;
- (BOOL)respondsToSelector:(SEL)s;
@end

__attribute__((objc_root_class)) @interface NSObject <NSObject> {
	Class isa;
	int count;
}
+ (id)alloc;
+ (id)new;
- (id)init;
- (void)dealloc;
+ (Class)class;
+ (void)initialize;
@end

@interface NSAutoreleasePool : NSObject {
	NSUInteger mark;
}
- (void)drain;
@end

@interface NSString : NSObject
+ (instancetype)stringWithUTF8String:(const char *)s;
- (const char *)UTF8String;
- (NSUInteger)length;
@end

@interface NSConstantString : NSString {
	char *c_string;
	unsigned int len;
}
@end

@interface NSError : NSObject {
	NSString *text;
}
+ (NSError *)simError:(const char *)text;
- (NSString *)localizedDescription;
@end

/* Objects that live now; and their classes, on stderr. */
extern long sim_objects;
void sim_list_objects(void);

#endif
