// Reading what a page shows: loading, here, or in trouble; what failed for want of a server is read again when it is back.
import { onScopeDispose, ref, shallowRef, watch, type Ref, type ShallowRef } from 'vue'
import { Problem } from '@levee/shared'
import { whenBack } from './connection'

export interface Loaded<T> {
  data: ShallowRef<T | undefined>
  problem: ShallowRef<unknown>
  loading: Ref<boolean>
  /** loading, ready or failed, for the page's data-state. */
  state: () => 'loading' | 'ready' | 'failed'
  again: () => Promise<void>
  /** When the first reading is done, well or not. */
  first: Promise<void>
}

/** Reads now and whenever key changes. What was read stays in view while it is read again. */
export function useLoad<T>(read: () => Promise<T>, key?: () => unknown): Loaded<T> {
  const data = shallowRef<T>()
  const problem = shallowRef<unknown>()
  const loading = ref(true)
  let turn = 0
  let cancel: (() => void) | undefined

  const again = async (): Promise<void> => {
    const mine = ++turn
    cancel?.()
    loading.value = true
    try {
      const d = await read()
      if (mine !== turn) return
      data.value = d
      problem.value = undefined
    } catch (e) {
      if (mine !== turn) return
      problem.value = e
      if (e instanceof Problem && (e.status === 0 || e.status >= 500)) cancel = whenBack(() => void again())
    } finally {
      if (mine === turn) loading.value = false
    }
  }
  if (key)
    watch(key, () => {
      data.value = undefined
      void again()
    })
  const first = again()
  onScopeDispose(() => {
    turn++
    cancel?.()
  })
  return { data, problem, loading, again, first, state: () => (data.value !== undefined ? 'ready' : problem.value !== undefined ? 'failed' : 'loading') }
}
