import { onScopeDispose, ref, shallowRef, type Ref, type ShallowRef } from 'vue'
import type { Problem } from '@levee/shared'
import { asProblem } from './problem'

export interface Load<T> {
  data: ShallowRef<T | undefined>
  problem: ShallowRef<Problem | undefined>
  busy: Ref<boolean>
  /** Asks again; what is shown stays until the answer is there. */
  reload(): Promise<void>
}

/** Loads something for a page. Of two answers under way the later question counts. */
export function useLoad<T>(read: () => Promise<T>, now = true): Load<T> {
  const data = shallowRef<T>()
  const problem = shallowRef<Problem>()
  const busy = ref(now)
  let turn = 0
  onScopeDispose(() => turn++)
  async function reload(): Promise<void> {
    const mine = ++turn
    busy.value = true
    try {
      const answer = await read()
      if (mine !== turn) return
      data.value = answer
      problem.value = undefined
    } catch (e) {
      if (mine === turn) problem.value = asProblem(e)
    } finally {
      if (mine === turn) busy.value = false
    }
  }
  if (now) void reload()
  return { data, problem, busy, reload }
}
