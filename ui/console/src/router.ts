import { createRouter, createWebHistory, type RouteRecordRaw } from 'vue-router'
import { may, operates, session } from './session'
import { whoAmI } from './api'
import { failed } from './parts/failed'

declare module 'vue-router' {
  interface RouteMeta {
    /** Anybody may see it. */
    open?: boolean
    /** The operation or ability that it takes. */
    needs?: string
    /** Which entry of the navigation it belongs to. */
    nav?: string
  }
}

const routes: RouteRecordRaw[] = [
  { path: '/', name: 'overview', component: () => import('./pages/Overview.vue'), meta: { nav: 'overview' } },
  { path: '/sign-in', name: 'sign-in', component: () => import('./pages/SignIn.vue'), meta: { open: true } },
  { path: '/setup', name: 'setup', component: () => import('./pages/Setup.vue'), meta: { open: true } },
  { path: '/products', name: 'products', component: () => import('./pages/Products.vue'), meta: { nav: 'products', needs: 'products.unsold' } },
  { path: '/products/new', name: 'product-new', component: () => import('./pages/ProductNew.vue'), meta: { nav: 'products', needs: 'createProduct' } },
  { path: '/products/import', name: 'import', component: () => import('./pages/Import.vue'), meta: { nav: 'products', needs: 'importProducts' } },
  { path: '/products/:id', name: 'product', component: () => import('./pages/Product.vue'), props: true, meta: { nav: 'products', needs: 'products.unsold' } },
  { path: '/sales', name: 'sales', component: () => import('./pages/Sales.vue'), meta: { nav: 'sales', needs: 'sales.hidden' } },
  { path: '/sales/new', name: 'sale-new', component: () => import('./pages/SaleEdit.vue'), meta: { nav: 'sales', needs: 'createSale' } },
  { path: '/sales/:id', name: 'sale', component: () => import('./pages/Sale.vue'), props: true, meta: { nav: 'sales', needs: 'sales.hidden' } },
  { path: '/sales/:id/edit', name: 'sale-edit', component: () => import('./pages/SaleEdit.vue'), props: true, meta: { nav: 'sales', needs: 'changeSale' } },
  { path: '/sales/:id/live', name: 'live', component: () => import('./pages/Live.vue'), props: true, meta: { nav: 'sales', needs: 'getLive' } },
  { path: '/orders', name: 'orders', component: () => import('./pages/Orders.vue'), meta: { nav: 'orders', needs: 'orders.of_others' } },
  { path: '/orders/:id', name: 'order', component: () => import('./pages/Order.vue'), props: true, meta: { nav: 'orders', needs: 'orders.of_others' } },
  { path: '/webhooks', name: 'webhooks', component: () => import('./pages/Webhooks.vue'), meta: { nav: 'webhooks', needs: 'listWebhooks' } },
  { path: '/webhooks/:id', name: 'webhook', component: () => import('./pages/Webhook.vue'), props: true, meta: { nav: 'webhooks', needs: 'listWebhooks' } },
  { path: '/webhook-deliveries/:id', name: 'delivery', component: () => import('./pages/Delivery.vue'), props: true, meta: { nav: 'webhooks', needs: 'listWebhooks' } },
  { path: '/schedules', name: 'schedules', component: () => import('./pages/Schedules.vue'), meta: { nav: 'schedules', needs: 'listSchedules' } },
  { path: '/schedules/:name', name: 'schedule', component: () => import('./pages/Schedule.vue'), props: true, meta: { nav: 'schedules', needs: 'listSchedules' } },
  { path: '/queues', name: 'queues', component: () => import('./pages/Queues.vue'), meta: { nav: 'queues', needs: 'getJobQueue' } },
  { path: '/jobs/:id', name: 'job', component: () => import('./pages/Job.vue'), props: true, meta: { nav: 'queues', needs: 'getJobQueue' } },
  { path: '/events', name: 'events', component: () => import('./pages/Events.vue'), meta: { nav: 'events', needs: 'listEventListeners' } },
  { path: '/events/:name', name: 'listener', component: () => import('./pages/Listener.vue'), props: true, meta: { nav: 'events', needs: 'listEventListeners' } },
  { path: '/audit', name: 'audit', component: () => import('./pages/Audit.vue'), meta: { nav: 'audit', needs: 'listAudit' } },
  { path: '/users', name: 'users', component: () => import('./pages/Users.vue'), meta: { nav: 'users', needs: 'listUsers' } },
  { path: '/access', name: 'access', component: () => import('./pages/Access.vue'), meta: { nav: 'access', needs: 'listResources' } },
  { path: '/forbidden', name: 'forbidden', component: () => import('./pages/Forbidden.vue'), meta: { open: true } },
  { path: '/:rest(.*)*', name: 'not-found', component: () => import('./pages/NotFound.vue') },
]

export const router = createRouter({
  history: createWebHistory('/console/'),
  routes,
  scrollBehavior: (_to, _from, saved) => saved ?? { top: 0 },
})

router.beforeEach(async (to, from) => {
  if (to.path !== from.path) failed.value = undefined
  if (!session.known) await whoAmI().catch(() => {})
  if (to.meta.open) return true
  if (!operates(session.user)) return { name: 'sign-in', query: to.fullPath === '/' ? {} : { to: to.fullPath } }
  if (to.meta.needs && !may(to.meta.needs)) return { name: 'forbidden', query: { page: to.fullPath } }
  return true
})

// A page whose file is gone is older than the server: it is loaded anew, once.
router.onError((error, to) => {
  const stale = /dynamically imported module|Importing a module script failed|error loading/i.test(String(error))
  const url = router.resolve(to.fullPath).href
  if (stale && !session.away && sessionStorage.getItem('levee.console.reloaded') !== url) {
    sessionStorage.setItem('levee.console.reloaded', url)
    location.assign(url)
    return
  }
  failed.value = error instanceof Error ? error : new Error(String(error))
})
router.afterEach(() => sessionStorage.removeItem('levee.console.reloaded'))
