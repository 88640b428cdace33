"""View -> what each edge is told: RouteTable, TunnelPlan, GatewayTable, recomputed as far as a change reaches.

`cells` is the engine, `units` names what is computed, the other rooms compute one kind of unit each, and `projector`
is the door.
"""
