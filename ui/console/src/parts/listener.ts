import type { Listener } from '../api'

/** Where a listener stands, in one word. */
export const standing = (l: Listener): 'gone' | 'behind' | 'replaying' | 'elsewhere' | 'here' =>
  l.gone ? 'gone' : l.behind ? (l.here ? 'replaying' : 'behind') : l.here ? 'here' : 'elsewhere'
