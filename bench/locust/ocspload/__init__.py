"""What bench/locust/locustfile.py is made of: the list of what to ask (``targets``) and the checks (``checks``).

Nothing in here imports locust or gevent, so tests may import it, and nothing imports Revocast: it judges any responder.
"""
