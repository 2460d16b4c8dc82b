// Lists by pages: the server gives a cursor to the next one; the way back is remembered here.
import { computed, reactive, ref, watch } from 'vue'
import { useRoute, useRouter } from 'vue-router'
import { useLoad } from './useLoad'

export interface Page<T> {
  items: T[]
  next?: string
}

/**
 * A list whose filters stand in the address, so that a reload and the browser's back keep them. read gets the filters that are
 * not empty and the cursor.
 */
export function usePages<T, F extends Record<string, string>>(empty: F, read: (filters: Partial<F>, after: string | undefined) => Promise<Page<T>>) {
  const route = useRoute()
  const router = useRouter()
  const filters = reactive({ ...empty }) as F
  const before = ref<string[]>([]) // cursors of the pages on the way back; '' is the first
  const after = computed(() => (typeof route.query.after === 'string' ? route.query.after : ''))
  const path = route.path

  const fromAddress = (): void => {
    for (const key of Object.keys(empty)) {
      const value = route.query[key]
      ;(filters as Record<string, string>)[key] = typeof value === 'string' ? value : (empty[key] ?? '')
    }
  }
  const asked = (): Partial<F> =>
    Object.fromEntries(Object.keys(empty).flatMap((k) => (filters[k] ? [[k, filters[k]]] : []))) as Partial<F>
  fromAddress()

  const load = useLoad(() => read(asked(), after.value || undefined), false)
  watch(
    () => route.query,
    () => {
      if (route.path !== path) return
      fromAddress()
      void load.reload()
    },
    { immediate: true },
  )

  /** Asks with the filters as they stand, from the first page. */
  function search(): void {
    before.value = []
    const query = asked() as Record<string, string>
    const same = JSON.stringify(query) === JSON.stringify(route.query)
    if (same) void load.reload()
    else void router.replace({ query })
  }
  function next(): void {
    const cursor = load.data.value?.next
    if (!cursor) return
    before.value.push(after.value)
    void router.push({ query: { ...(asked() as Record<string, string>), after: cursor } })
  }
  function previous(): void {
    const cursor = before.value.pop() ?? ''
    void router.push({ query: { ...(asked() as Record<string, string>), ...(cursor ? { after: cursor } : {}) } })
  }
  const items = computed<T[]>(() => load.data.value?.items ?? [])
  return { filters, items, busy: load.busy, problem: load.problem, reload: load.reload, search, next, previous, hasNext: computed(() => !!load.data.value?.next), hasPrevious: computed(() => after.value !== '') }
}
